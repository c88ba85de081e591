"""What a good mask is: one term a file, and their weighted sum."""
