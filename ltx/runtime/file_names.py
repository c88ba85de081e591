"""Names of result files, and the record of images whose results are complete."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ltx.runtime.errors import InputError
from ltx.runtime.json_text import parse_json

RECORD = "explanations.jsonl"
MAX_STEM_BYTES = 225
"""Length limit of a stem's last part: with hash, number and `.areas.png` it stays within 255 bytes."""

# A file name that is not UTF-8 is written with JSON escapes, which read back as the same name.
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}


def result_stems(names: Sequence[str], root: str | Path | None = None, others: Iterable[str] = ()) -> list[str]:
    """One unique file name without suffix for each image.

    Folders below `root` are kept. Files that differ only in their suffix keep it (`cat.jpg`, `cat.png`). A repeated
    name gets a number. A name gets a hash of its path if it was shortened, or if it could also belong to one of
    `others` or to another image's sweep over areas.

    Args:
        names: paths or plain names of all images.
        root: folder that contains all of them; None = the deepest common folder.
        others: paths of images whose results are already in the output folder; their root is unknown.
    """
    plain = [not os.path.dirname(name) for name in names]
    paths = [os.path.abspath(name) for name in names]
    if root is None:
        folders = [os.path.dirname(path) for path, bare in zip(paths, plain, strict=True) if not bare]
        root = os.path.commonpath(folders) if folders else "."
    relative = [
        _below(name, path, bare, os.path.abspath(root)) for name, path, bare in zip(names, paths, plain, strict=True)
    ]
    short = [path.with_suffix("").as_posix() if path.suffix else path.as_posix() for path in relative]
    counts = Counter(short)
    reserved = {tail for other in others for tail in _tails(other)}
    taken: set[str] = set()
    stems = []
    for below, stem, path in zip(relative, short, paths, strict=True):
        stem = stem if counts[stem] == 1 else below.as_posix()
        # `a.areas.png` is the sweep of `a`
        if stem in reserved or stem.endswith(".areas") or _length(stem) > MAX_STEM_BYTES:
            while _length(stem) > MAX_STEM_BYTES:
                stem = stem[:-1]
            stem = f"{stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        stem = free_name(stem, taken.__contains__)
        taken.add(stem)
        stems.append(stem)
    return stems


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name, or the first of `NAME_2`, `NAME_3`, … that is not taken."""
    free, number = name, 2
    while is_taken(free):
        free, number = f"{name}_{number}", number + 1
    return free


def _below(name: str, path: str, bare: bool, root: str) -> Path:
    """The path relative to `root`; only its last part for a bare name or a path outside `root`."""
    inside = Path(os.path.relpath(path, root))
    # Results must never be written outside the output folder.
    return Path(os.path.basename(name)) if bare or inside.parts[0] == os.pardir else inside


def _length(stem: str) -> int:
    """Bytes of the stem's last part."""
    return len(os.fsencode(stem.rpartition("/")[2]))


def _tails(name: str) -> Iterator[str]:
    """Every stem that the image with this path can have under any root."""
    path = Path(os.path.abspath(name))
    for end in (path, path.with_suffix("")):
        yield from ("/".join(end.parts[first:]) for first in range(1, len(end.parts)))


def records(out: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of `explanations.jsonl` in a folder, all of complete results.

    A last line that a killed process left incomplete is removed from the file.

    Raises:
        InputError: another line cannot be read.
    """
    file = Path(out) / RECORD
    if not file.is_file():
        return
    truncate_partial_line(file)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            record = parsed_record(line)
            if record is None:
                raise InputError(f"{file}, line {number} is not a valid result; remove that line")
            yield record


def parsed_record(line: bytes) -> dict[str, Any] | None:
    """The record in a line of JSON; None if it is not one of an image's results."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("image"), str):
        return None
    return record


def finished(out: str | Path) -> set[str]:
    """The images, as their paths were given, whose results in `out` are complete.

    Raises:
        InputError: a line of the record cannot be read.
    """
    return {record["image"] for record in records(out)}


def truncate_partial_line(file: Path) -> None:
    """Remove everything after the last line feed: a line is complete only if it ends in one."""
    if not file.is_file():
        return
    with file.open("rb+") as record:
        end = record.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - 4096)
            record.seek(start)
            line_feed = record.read(position - start).rfind(b"\n")
            if line_feed >= 0:
                position = start + line_feed + 1
                break
            position = start
        if position < end:
            record.truncate(position)
