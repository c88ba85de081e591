"""Shared by every layer: errors, ranks, seeded random draws, atomic file writes, progress bars."""
