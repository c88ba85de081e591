"""What every layer needs: errors, ranks, seeded draws, atomic files, progress."""
