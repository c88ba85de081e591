"""Lightning callbacks: files written during training, additional validations, clean stops."""
