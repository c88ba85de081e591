"""Fills and masked images, masks with a prescribed area, and their random draws."""
