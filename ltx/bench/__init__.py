"""Measurements beside their floor, in one run: `python -m ltx.bench NAME key=value …`."""
