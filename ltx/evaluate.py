"""Deprecated: `python -m ltx.evaluate` is now `ltx evaluate`."""

if __name__ == "__main__":
    from ltx.cli.deprecated import renamed

    renamed("ltx.evaluate", "evaluate")
