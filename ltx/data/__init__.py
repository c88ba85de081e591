"""Finding, reading, cropping and streaming images."""
