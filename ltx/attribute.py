"""Deprecated: `python -m ltx.attribute` is now `ltx attribute`.

The function of this name is `ltx.attribute`: importing this module yields it.
"""

import sys

if __name__ == "__main__":
    from ltx.cli.deprecated import renamed

    renamed("ltx.attribute", "attribute")
else:
    from ltx.attribution.attribute import attribute

    sys.modules[__name__] = attribute  # type: ignore[assignment]
