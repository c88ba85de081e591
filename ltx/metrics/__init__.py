"""How good a map is: faithfulness, localisation and sanity."""
