"""Commands of earlier releases, which still work and name their replacement."""

from __future__ import annotations

import sys
from typing import NoReturn

from ltx.cli.main import main


def renamed(old: str, new: str) -> NoReturn:
    """Run `ltx NEW …` for `python -m OLD …`, after a line on stderr that says so."""
    print(f"python -m {old} is now: ltx {new}; the old name will be removed in the next release", file=sys.stderr)
    main([*new.split(), *sys.argv[1:]])
