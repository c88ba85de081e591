"""Deprecated: `python -m ltx.data.shards` is now `ltx shards`."""

if __name__ == "__main__":
    from ltx.cli.deprecated import renamed

    renamed("ltx.data.shards", "shards")
