"""How good a map is: faithfulness, localisation and sanity, one family a file."""
