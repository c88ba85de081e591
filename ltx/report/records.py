"""Reading the record of a folder of results, and finding the files that belong to each line."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx.runtime.errors import InputError
from ltx.runtime.file_names import RECORD, result_stems
from ltx.runtime.json_text import parse_json


@dataclass(frozen=True)
class Result:
    """One line of `explanations.jsonl`.

    Attributes:
        record: the line.
        stem: the result's files without suffix, relative to the folder of results.
    """

    record: dict[str, Any]
    stem: str

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name the result's pictures in the report; free of characters from users."""
        return hashlib.sha256(self.stem.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_results(folder: Path) -> list[Result]:
    """The results of a folder, in the order of its record.

    A last line without a line feed belongs to a command that is still writing and is ignored.

    Raises:
        InputError: the folder has no record, or a line of it is not a result.
    """
    file = folder / RECORD
    if not file.is_file():
        raise InputError(f"{folder} contains no {RECORD}; give a folder that ltx finetune or ltx attribute wrote")
    *lines, _ = file.read_bytes().decode("utf-8", "backslashreplace").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
            if not isinstance(record["image"], str):
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}, line {number} is not a result; remove that line") from error
        records.append(record)
    if not records:
        raise InputError(f"{file} is empty; explain at least one image first")
    stems = _stems(folder, records)
    outside = [stem for stem in stems if os.path.isabs(stem) or os.pardir in Path(stem).parts]
    if outside:
        raise InputError(f"{folder / RECORD}: the stem {outside[0]!r} leads out of the folder; remove that line")
    return [Result(record, stem) for record, stem in zip(records, stems, strict=True)]


def _stems(folder: Path, records: Sequence[dict[str, Any]]) -> list[str]:
    """The stems of the records. Releases before 0.3 did not write them; they are found by the names of the files."""
    if all(isinstance(record.get("stem"), str) for record in records):
        return [record["stem"] for record in records]
    names = [record["image"] for record in records]
    stems = []
    for record, name, guess in zip(records, names, result_stems(names), strict=True):
        path = Path(name).with_suffix("")
        tails = ("/".join(path.parts[first:]) for first in range(1 if path.is_absolute() else 0, len(path.parts)))
        candidates = [record["stem"]] if isinstance(record.get("stem"), str) else [guess, *tails]
        stems.append(next((stem for stem in candidates if (folder / f"{stem}.npz").is_file()), guess))
    return stems


def paired(first: Sequence[Result], second: Sequence[Result]) -> list[tuple[int, int]]:
    """The places in two runs of each image; -1 where a run has no result of it.

    Images are matched by their path, or by the stem of their results where no path is the same in both runs.

    Raises:
        InputError: the runs have no image in common.
    """
    for name in ("image", "stem"):
        names = [[r.record["image"] if name == "image" else r.stem for r in run] for run in (first, second)]
        places = {value: place for place, value in enumerate(names[1])}  # of several results of an image the latest
        if not places.keys().isdisjoint(names[0]):
            break
    else:
        raise InputError("the two folders have no image in common; compare results of the same images")
    pairs = [(place, places.get(value, -1)) for place, value in enumerate(names[0])]
    both = {second for _, second in pairs}
    return pairs + [
        (-1, place) for place in range(len(second)) if place not in both and places[names[1][place]] == place
    ]
