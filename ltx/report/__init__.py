"""Pages that show the results in a folder: one `index.html`, which needs no server and no network."""
