"""The exception that command lines print as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Invalid user input. The message names the setting, its value and how to fix it, in one line."""


class PartialFailureError(Exception):
    """The work is done, except for some parts of it; the command line exits with status 3.

    Args:
        reasons: one line for each part that failed.
        part: what a part is, in the singular.
        failed: what happened to it.
    """

    def __init__(self, reasons: Sequence[str], part: str = "source", failed: str = "could not be used") -> None:
        shown = "; ".join(reasons[:10]) + (f"; and {len(reasons) - 10} more" if len(reasons) > 10 else "")
        super().__init__(f"{len(reasons)} {part}{'s' * (len(reasons) > 1)} {failed}: {shown}")


def suggest(word: str, known: Iterable[str], limit: int = 3) -> str:
    """Return `"; did you mean a, b?"` with the known words closest to `word`, or an empty string."""
    matches = difflib.get_close_matches(word, list(dict.fromkeys(known)), n=limit, cutoff=0.5)
    return f"; did you mean {', '.join(matches)}?" if matches else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message (up to 200 characters), or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
