"""Mask networks: they map an image and a class to a mask."""
