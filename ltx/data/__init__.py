"""Image files: finding, reading and batching them (`images`), and the stream explainers are trained on (`folder`)."""
