"""The one exception that command lines turn into a single line for the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user's input cannot be used; the text names the thing, the value and the mend."""


def suggest(word: str, known: Iterable[str], limit: int = 3) -> str:
    """`"; did you mean a, b?"` for the known words nearest to `word`, or an empty string."""
    near = difflib.get_close_matches(word, list(dict.fromkeys(known)), n=limit, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""
