"""The page of one folder of explanations, or of two that are compared."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ltx.report.page import write_page
from ltx.report.pictures import FOLDER, Pictures, make_pictures
from ltx.report.records import Result, paired, read_results
from ltx.runtime.errors import InputError

LEADING = ("probability", "probability_kept", "probability_removed", "mask_mean", "steps", "seconds")
"""Numbers of the record in the order in which the page lists them; others follow."""

TEXTS = ("image", "label", "method", "stem", "target")
"""Keys of the record that are not sorted as numbers."""


def write_results_page(folders: Sequence[Path], file: Path) -> int:
    """Write the page of one or two folders of explanations; returns how many images it shows.

    Raises:
        InputError: a folder without results, arrays that cannot be read, or two folders without a common image.
    """
    runs = [read_results(folder) for folder in folders]
    if len(folders) == 2 and folders[0].resolve() == folders[1].resolve():
        raise InputError(f"{folders[0]} and {folders[1]} are the same folder; give two different ones")
    rows = paired(*runs) if len(runs) == 2 else None
    names = _run_names(folders)
    data = {
        "runs": [
            as_columns(name, _url(folder, file.parent), results, make_pictures(folder, results))
            for name, folder, results in zip(names, folders, runs, strict=True)
        ],
        "rows": rows,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_page(file, "results", " and ".join(names), data)
    return len(runs[0]) if rows is None else len(rows)


def as_columns(name: str, url: str, results: Sequence[Result], pictures: Sequence[Pictures]) -> dict[str, Any]:
    """A run as the page reads it: one list for each column, texts that repeat by their place in a list."""
    records = [result.record for result in results]
    columns: dict[str, Any] = {
        "name": name,
        "url": url,
        "pictures": f"{url}/{FOLDER}",
        "image": [record["image"] for record in records],
        "file": [quote(os.fsencode(_encodable(result.stem))) for result in results],
        "key": [picture.key if picture.source is not None else "" for picture in pictures],
        "size": [[picture.width, picture.height] for picture in pictures],
        "target": [record.get("target") for record in records],
    }
    for text in ("label", "method"):
        columns[text] = _indexed([str(record.get(text, "")) for record in records])
    columns["numbers"] = {key: [_number(record.get(key)) for record in records] for key in _numeric(records)}
    if any(picture.areas for picture in pictures):
        columns["areas"] = [picture.areas for picture in pictures]
        columns["kept"] = [picture.kept for picture in pictures]
    return columns


def _numeric(records: Sequence[dict[str, Any]]) -> list[str]:
    """The keys that have a number in at least one record."""
    found = {key for record in records for key, value in record.items() if _number(value) is not None}
    others = sorted(found.difference(LEADING, TEXTS))
    return [key for key in (*LEADING, *others) if key in found]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def _indexed(texts: Sequence[str]) -> dict[str, Any]:
    values = list(dict.fromkeys(texts))
    place = {value: index for index, value in enumerate(values)}
    return {"values": values, "index": [place[text] for text in texts]}


def _run_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole path where the last parts are equal."""
    last = [folder.resolve().name for folder in folders]
    return last if len(set(last)) == len(last) else [str(folder) for folder in folders]


def _url(folder: Path, page: Path) -> str:
    """The folder relative to the page, as a URL."""
    return quote(os.fsencode(Path(os.path.relpath(folder.resolve(), page.resolve())).as_posix()))


def _encodable(stem: str) -> str:
    """The stem without surrogates that stand for no byte of a file name."""
    try:
        os.fsencode(stem)
    except UnicodeEncodeError:
        return stem.encode("utf-8", "replace").decode()
    return stem
