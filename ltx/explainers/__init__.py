"""Mask networks: an image (and a class, and an area) to a mask."""
