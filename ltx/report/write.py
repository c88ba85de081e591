"""Write the page of a folder, whichever command filled it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ltx.report.results_page import write_results_page
from ltx.report.scores_page import SCORES, write_scores_page
from ltx.runtime.errors import InputError
from ltx.runtime.file_names import RECORD

PAGE, COMPARISON = "index.html", "compare.html"


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the page of one folder of results, or of two folders of explanations side by side.

    Args:
        folders: one or two folders that `ltx finetune`, `ltx attribute` or (one alone) `ltx evaluate` wrote.
        out: the HTML file; None = `index.html` in the folder, `compare.html` in the first of two.

    Returns:
        The file.

    Raises:
        InputError: a folder does not exist or contains no results, or see `write_results_page`.
    """
    places = [Path(folder) for folder in folders]
    for place in places:
        if not place.is_dir():
            raise InputError(f"{place} is not a folder; give a folder of results")
    if not 1 <= len(places) <= 2:
        raise InputError(f"{len(places)} folders; give one, or two to compare")
    file = places[0] / (PAGE if len(places) == 1 else COMPARISON) if out is None else Path(out)
    explained = [(place / RECORD).is_file() for place in places]
    if len(places) == 1 and not explained[0] and (places[0] / SCORES).is_file():
        if file.resolve().parent != places[0].resolve():
            raise InputError(f"out={out}: the page of an evaluation shows figures from its folder; write it there")
        write_scores_page(places[0], file)
        return file
    for place, known in zip(places, explained, strict=True):
        if not known and any((place / "maps").glob("*.jsonl")):
            raise InputError(
                f"{place} contains maps without images (save=maps); explain with save=pictures for a report"
            )
    write_results_page(places, file)
    return file
