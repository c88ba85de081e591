"""The images that a folder already contains results of, identified by absolute path and content."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ltx.data.reading import Fingerprint
from ltx.data.shards.batches import absolute_sample
from ltx.results.map_shards import map_records
from ltx.runtime.file_names import records


@dataclass
class _Results:
    """The results under one path: contents and file states of their images, and the stem of the last one."""

    digests: set[str] = field(default_factory=set)
    states: set[tuple[int, int]] = field(default_factory=set)
    stem: str | None = None


class KnownImages:
    """The images with complete results in a folder.

    A file with the recorded size and modification time is known without reading it. Otherwise the digest of its
    content decides, which is computed when the file is read anyway. Records of earlier releases contain neither: there
    the path alone decides.

    Args:
        records: lines of `explanations.jsonl`, or of the records of maps.
    """

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self._by_path: dict[str, _Results] = {}
        self.stems: set[str] = set()
        for record in records:
            source = record.get("source")
            source = source if isinstance(source, dict) else {}
            path = source.get("path")
            path = path if isinstance(path, str) else absolute_sample(record["image"])
            results = self._by_path.setdefault(path, _Results())
            if isinstance(record.get("stem"), str):
                results.stem = record["stem"]
                self.stems.add(record["stem"])
            if isinstance(source.get("sha256"), str):
                results.digests.add(source["sha256"])
            if isinstance(source.get("modified_ns"), int):
                results.states.add((source.get("bytes", -1), source["modified_ns"]))

    def __contains__(self, path: str) -> bool:
        """Whether there are results under an absolute path, of any content."""
        return path in self._by_path

    def __bool__(self) -> bool:
        return bool(self._by_path)

    @property
    def paths(self) -> set[str]:
        """Absolute paths of all images with results."""
        return set(self._by_path)

    def stem(self, path: str) -> str | None:
        """Stem of the last result under an absolute path; None if there is none, or if it is not recorded."""
        return self._by_path[path].stem if path in self._by_path else None

    def is_current(self, path: str) -> bool:
        """Whether the file at an absolute path is known without reading it."""
        results = self._by_path.get(path)
        if results is None:
            return False
        try:
            about = os.stat(path)
        except (OSError, ValueError):
            return not results.digests
        return not results.digests or (about.st_size, about.st_mtime_ns) in results.states

    def has(self, image: Fingerprint) -> bool:
        """Whether there are results of an image with this path and content."""
        results = self._by_path.get(image.path)
        return results is not None and (image.sha256 in results.digests or not results.digests)


def known_images(out: str | Path, save: str) -> KnownImages:
    """Read the records of a folder.

    Args:
        out: folder of the results.
        save: `pictures` or `maps`.

    Raises:
        InputError: a record cannot be read.
    """
    return KnownImages(map_records(out) if save == "maps" else records(out))


def source_entry(image: Fingerprint) -> dict[str, Any]:
    """The entry of a record that identifies its image."""
    return {"source": asdict(image)}
