"""Explanations of whole data sets: float16 maps in tar files, each with a record; one series of files per process."""

from __future__ import annotations

import io
import json
import math
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ltx.results.explanation import Explanation
from ltx.runtime.atomic_files import write_atomically, writing
from ltx.runtime.errors import InputError
from ltx.runtime.file_names import TEXT, parsed_record

FOLDER = "maps"

END = bytes(2 * tarfile.BLOCKSIZE)
"""The end of a tar; alone, a tar without members."""


class MapShards:
    """Write maps and records of a data set.

    `OUT/maps/RANK-NUMBER.tar` contains a member `<stem>.npy`, float16 `[H, W]`, for each image. The `.jsonl` next to
    each tar describes its i-th member in its i-th line.

    A kill at any moment leaves a tar of complete members, and no line without a map. A map without a complete line is
    cut off when the same rank, or the one that takes over its series, starts again.

    Args:
        out: folder of the results.
        rank: rank of this process.
        ranks: number of processes; this one repairs the series `rank`, `rank + ranks`, … of previous runs.
        per_shard: maps per tar.
    """

    def __init__(self, out: str | Path, rank: int = 0, ranks: int = 1, per_shard: int = 1000) -> None:
        self.folder = Path(out) / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rank = rank
        self.per_shard = per_shard
        numbers = [-1]
        for place in sorted(self.folder.glob("*.tar")):
            if not re.fullmatch(r"\d+-\d+", place.stem):
                raise InputError(f"{place} is not a file of maps; remove it, or choose another out=…")
            series, number = map(int, place.stem.split("-"))
            if series % ranks == rank:
                _repair(place)
            if series == rank:
                numbers.append(number)
        self._number = max(numbers)
        self._count = per_shard  # so that the first map opens a new tar
        self._tar: BinaryIO | None = None

    def append(
        self, explanation: Explanation, stems: Sequence[str], extra: Sequence[dict[str, Any]] | None = None
    ) -> None:
        """Write the map of each image of a batch, and its record after it.

        Args:
            explanation: explanation of the batch.
            stems: name of each map in the tar, without suffix.
            extra: more entries for each record.
        """
        cpu = explanation.on_cpu()
        for index, stem in enumerate(stems):
            if self._count >= self.per_shard:
                self._open_next()
            with writing(self._place):
                buffer = io.BytesIO()
                np.save(buffer, cpu.arrays(index)["map"].astype(np.float16), allow_pickle=False)
                name = f"{stem}.npy"
                self._append_member(name, buffer.getvalue())
                record = cpu.record(index) | {"map": name} | (extra[index] if extra else {})
                self._record.write(json.dumps(record, ensure_ascii=False) + "\n")
                self._record.flush()
            self._count += 1

    def close(self) -> None:
        """Finish the open tar."""
        if self._tar is not None:
            with writing(self._place):
                for stream in (self._tar, self._record):
                    stream.flush()
                    os.fsync(stream.fileno())
                    stream.close()
        self._tar = None

    def _open_next(self) -> None:
        self.close()
        self._number += 1
        self._count = 0
        self._place = place = self.folder / f"{self.rank:05d}-{self._number:06d}.tar"
        self._record = place.with_suffix(".jsonl").open("w", **TEXT)  # first: the next run looks for tars
        write_atomically(place, END)
        self._tar = place.open("rb+")
        self._end = 0

    def _append_member(self, name: str, content: bytes) -> None:
        """Write a member over the end of the tar, its first block last: until then, the tar ends before it."""
        assert self._tar is not None
        member = tarfile.TarInfo(name)
        member.size = len(content)
        padding = bytes(-len(content) % tarfile.BLOCKSIZE)
        blocks = member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + content + padding
        for place, part in ((tarfile.BLOCKSIZE, blocks[tarfile.BLOCKSIZE :] + END), (0, blocks[: tarfile.BLOCKSIZE])):
            self._tar.seek(self._end + place)
            self._tar.write(part)
            self._tar.flush()
        self._end += len(blocks)

    def __enter__(self) -> MapShards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def map_records(out: str | Path) -> Iterator[dict[str, Any]]:
    """The records of complete maps; other processes may be writing at the same time.

    Raises:
        InputError: a line of a record is not valid.
    """
    for place in sorted((Path(out) / FOLDER).glob("*.jsonl")):
        *lines, _ = place.read_bytes().split(b"\n")  # text after the last line feed is incomplete
        for number, line in enumerate(lines, start=1):
            record = parsed_record(line)
            if record is None:
                raise InputError(f"{place}, line {number} is not a valid record; remove the tar and the jsonl")
            yield record


def finished_maps(out: str | Path) -> set[str]:
    """The images, as their paths were given, with complete maps and records.

    Raises:
        InputError: a line of a record is not valid.
    """
    return {record["image"] for record in map_records(out)}


def _repair(place: Path) -> None:
    """Truncate a tar and its record to their common complete entries, and write the end of the tar."""
    record = place.with_suffix(".jsonl")
    lines = (
        record.read_bytes().splitlines(keepends=True) if record.exists() else []
    )  # bytes are split at line feeds only
    complete = [line for line in lines if line.endswith(b"\n")]
    try:
        with tarfile.open(place) as archive:
            members = archive.getmembers()
            end = _end(members[-1]) if members else 0
            closed = place.stat().st_size >= end + len(END)
            if closed and len(members) == len(complete) == len(lines):
                return
    except tarfile.TarError:
        pass
    end = 0
    with place.open("rb") as stream:
        try:
            with tarfile.open(fileobj=stream) as archive:
                for _ in complete:
                    member = archive.next()
                    if member is None:
                        raise tarfile.ReadError("fewer members than lines")
                    end = _end(member)
        except tarfile.TarError:
            if complete:
                raise InputError(
                    f"{place} is damaged; remove it and its .jsonl; its images will be explained again"
                ) from None
    with place.open("rb+") as stream:
        stream.seek(end)
        stream.write(END)
        stream.truncate()
    write_atomically(record, b"".join(complete))


def _end(member: tarfile.TarInfo) -> int:
    """Offset in bytes at which a member ends."""
    return member.offset_data + math.ceil(member.size / tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
