"""Photographs in webdataset shards: made from files, and streamed for training and for explaining."""
