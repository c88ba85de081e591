"""Fills and masked images, and masks of a given area."""
