"""The files of results: their names, and the record of which of them are whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ltx.runtime.errors import InputError

RECORD = "explanations.jsonl"
LONGEST = 225
"""Bytes of a stem's last part: with hash, number and `.areas.png` it still is a file's name (255)."""

# A file name that is no UTF-8 is written as JSON escapes, which are read back as that name.
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}


def result_stems(names: Sequence[str], root: str | Path | None = None, others: Iterable[str] = ()) -> list[str]:
    """File names without suffix, one for each image and no two the same.

    Folders below `root` are kept. Files that differ only in their suffix keep it (`cat.jpg`, `cat.png`); a name that
    is there twice gets a number, and one that may be another image's or its sweep over areas, or was cut, a hash of
    its own path.

    Args:
        names: paths or plain names of all images of a set.
        root: folder that holds them all; None = the deepest one that does.
        others: paths of images whose results are in the same folder; of which root they are is not known any more.
    """
    plain = [not os.path.dirname(name) for name in names]
    places = [os.path.abspath(name) for name in names]
    if root is None:
        folders = [os.path.dirname(place) for place, bare in zip(places, plain, strict=True) if not bare]
        root = os.path.commonpath(folders) if folders else "."
    below = []
    for name, place, bare in zip(names, places, plain, strict=True):
        inside = Path(os.path.relpath(place, os.path.abspath(root)))
        outside = bare or inside.parts[0] == os.pardir  # then only the last part names it, never a place out of OUT
        below.append(Path(os.path.basename(name)) if outside else inside)
    short = [path.with_suffix("").as_posix() if path.suffix else path.as_posix() for path in below]
    counts = Counter(short)
    theirs = {tail for other in others for tail in _tails(other)}
    taken: set[str] = set()
    stems = []
    for path, stem, place in zip(below, short, places, strict=True):
        stem = stem if counts[stem] == 1 else path.as_posix()
        if stem in theirs or stem.endswith(".areas") or _length(stem) > LONGEST:  # `a.areas.png` is the sweep of `a`
            while _length(stem) > LONGEST:
                stem = stem[:-1]
            stem = f"{stem}_{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"
        wanted, number = stem, 2
        while stem in taken:
            stem, number = f"{wanted}_{number}", number + 1
        taken.add(stem)
        stems.append(stem)
    return stems


def _length(stem: str) -> int:
    """Bytes of its last part."""
    return len(os.fsencode(stem.rpartition("/")[2]))


def _tails(name: str) -> Iterator[str]:
    """Every stem that an image of this path can have, whatever the root."""
    path = Path(os.path.abspath(name))
    for end in (path, path.with_suffix("")):
        yield from ("/".join(end.parts[first:]) for first in range(1, len(end.parts)))


def finished(out: str | Path) -> set[str]:
    """The images (as they were given) whose results in `out` are whole.

    A last line that a killed process left half-written is cut off the record.

    Raises:
        InputError: another line of the record cannot be read.
    """
    file = Path(out) / RECORD
    if not file.is_file():
        return set()
    repair(file)
    images = set()
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                images.add(json.loads(line)["image"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{file}, line {number} is no result; remove that line") from error
    return images


def repair(file: Path) -> None:
    """Cut off what follows the last line feed: a line is whole only when it ends in one."""
    if not file.is_file():
        return
    with file.open("rb+") as record:
        end = record.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - 4096)
            record.seek(start)
            cut = record.read(position - start).rfind(b"\n")
            if cut >= 0:
                position = start + cut + 1
                break
            position = start
        if position < end:
            record.truncate(position)
