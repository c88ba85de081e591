"""Terms that say what a good mask is, one per file, and their weighted sum."""
