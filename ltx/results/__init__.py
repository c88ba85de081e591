"""What a method returns, and how it is written to disk: explanations, pictures, files of maps."""
