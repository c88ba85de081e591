"""Comparisons with other packages and plain loops: each pair alternates in one process."""
