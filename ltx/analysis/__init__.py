"""Multiple explanations of one image, and the agreement between seeds."""
