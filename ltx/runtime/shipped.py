"""Files that ship with the project: `configs/` and `checkpoints/`, in a checkout or in an installed package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
ROOTS = (PACKAGE / "shipped", PACKAGE.parent)
"""Location of the two folders in an installed wheel and in a checkout."""


def shipped(path: str | Path) -> Path | None:
    """The shipped file or folder with this relative path (`configs/train/inr.yaml`), or None."""
    path = Path(path)
    if path.is_absolute() or path.parts[:1] not in (("configs",), ("checkpoints",)):
        return None
    return next((root / path for root in ROOTS if (root / path).exists()), None)


def shipped_names(folder: str) -> Iterator[str]:
    """Names of the entries of `configs` or `checkpoints`."""
    root = shipped(folder)
    yield from sorted(entry.name for entry in root.iterdir()) if root is not None else ()
