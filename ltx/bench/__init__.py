"""Benchmarks: each times one part next to its lower bound in one run, `ltx bench NAME key=value …`."""
