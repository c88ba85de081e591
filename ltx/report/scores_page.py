"""The page of an evaluation: its table of scores, its figures, and the scores of each image."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from ltx.report.page import write_page
from ltx.runtime.errors import InputError
from ltx.runtime.json_text import parse_json

SCORES = "scores.json"
FIGURES = (("curves.png", "Curves"), ("gallery.png", "Maps of the first images"))


def write_scores_page(folder: Path, file: Path) -> int:
    """Write the page of a folder that `ltx evaluate` wrote; returns how many lines it has for single images.

    Raises:
        InputError: `scores.json` or `per_image.csv` cannot be read.
    """
    try:
        scores = parse_json((folder / SCORES).read_text("utf-8"))
        columns, lines = per_image(folder / "per_image.csv")
        data = {
            "title": f"{scores['classifier']}, {scores['protocol']} protocol",
            "summary": f"{scores['n']} images, {scores['skipped']} skipped; target: {scores['target']}; "
            f"classifier in {scores['precision']}; seed {scores['seed']}",
            "metrics": scores["metrics"],
            "methods": scores["methods"],
            "rivals": rivals(scores),
            "figures": [[name, title] for name, title in FIGURES if (folder / name).is_file()],
            "columns": columns,
            "lines": lines,
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: the scores cannot be read ({error!r}); run ltx evaluate again") from error
    write_page(file, "scores", data["title"], data)
    return len(lines)


def rivals(scores: dict[str, Any]) -> list[str]:
    """The methods that compete for the best score: no controls and no maps that a metric selected, unless alone."""
    from ltx.evaluation.controls import CONTROLS  # its torchmetrics takes seconds to import

    selected = scores.get("selected_by", {})
    fair = [name for name in scores["methods"] if name not in selected and name.split("@")[0] not in CONTROLS]
    return fair or list(scores["methods"])


def per_image(file: Path) -> tuple[list[str], list[list[Any]]]:
    """The names of the columns, and the lines with their numbers as numbers; an empty cell is None."""
    with io.StringIO(file.read_text("utf-8", "backslashreplace"), newline="") as stream:
        columns, *lines = csv.reader(stream)
    texts = {columns.index(name) for name in ("image", "method", "label")}
    return columns, [[cell if place in texts else _number(cell) for place, cell in enumerate(line)] for line in lines]


def _number(cell: str) -> float | None:
    value = float(cell) if cell else math.nan
    return value if math.isfinite(value) else None
