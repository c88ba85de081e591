"""`python -m ltx.bench NAME key=value …`: each name is a module of this package with `main(argv)`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

from ltx.runtime.errors import suggest

NAMES = sorted(
    module.name
    for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    if module.name not in ("__main__", "passes", "timing")
)


def main(argv: list[str]) -> int:
    """Run the measurement that the first word names; returns the exit status."""
    if not argv or argv[0] in ("--help", "-h"):
        print(
            f"usage: python -m ltx.bench NAME [key=value …]\nNAME is one of {', '.join(NAMES)}; NAME --help says more"
        )
        return 0
    if argv[0] not in NAMES:
        print(
            f"error: bench={argv[0]!r} is unknown{suggest(argv[0], NAMES)}; one of {', '.join(NAMES)}", file=sys.stderr
        )
        return 2
    importlib.import_module(f"ltx.bench.{argv[0]}").main(argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
