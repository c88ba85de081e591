"""Finding, reading, cropping and streaming of images."""
