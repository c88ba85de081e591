"""Correctness and speed on a GPU in one run, with one line for each measurement."""
