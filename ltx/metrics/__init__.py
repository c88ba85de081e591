"""Metrics of explanations: faithfulness, localisation and sanity checks, one family per file."""
