"""Deprecated: `python -m ltx.bench NAME` is now `ltx bench NAME`."""

if __name__ == "__main__":
    from ltx.cli.deprecated import renamed

    renamed("ltx.bench", "bench")
