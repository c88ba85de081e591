"""Results of methods and how they are written: explanations, pictures, tar files of maps."""
