"""Images in webdataset shards: packed from files, and streamed for training and for explaining."""
