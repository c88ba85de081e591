"""Batches of many image files in constant memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ltx.data.reading import Fingerprint, Fit, read_content, read_resized
from ltx.runtime.errors import InputError

Source = TypeVar("Source")


@dataclass
class Skipped:
    """Files that could not be read, each with the reason."""

    files: list[tuple[Path, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def summary(self, limit: int = 10) -> str:
        """`skipped 2 files: a.png is empty; b.png does not exist`, or an empty string for none."""
        if not self.files:
            return ""
        reasons = [reason for _, reason in self.files[:limit]]
        more = [f"and {len(self) - limit} more"] if len(self) > limit else []
        return f"skipped {len(self)} file{'s' * (len(self) > 1)}: {'; '.join(reasons + more)}"


class ImageBatches:
    """Batches of many files in constant memory: threads read ahead by one batch, unreadable files are skipped.

    Iterating yields `(paths, images)` with `images` float32 `[B, C, H, W]` in [0, 1], in the order of the files. Every
    batch but the last is full. `skipped` lists the files skipped so far.

    Args:
        paths: files, as returned by `find_images`.
        size: side, or height and width.
        batch_size: images per batch.
        mode: see `resize`.
        workers: reading threads; None = one per core, at most 8.
        all_may_fail: accept that no file can be read, because others were read before or are read elsewhere.
        known: called with the fingerprint of each file; a file for which it returns True is not decoded.
        channels: see `decoded`.

    Attributes:
        fingerprints: identities of the files of the batches so far; the caller may remove them to bound memory.
        known_count: files that were not decoded because of `known`.

    Raises:
        InputError: at the end of the iteration, if no file could be read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int | tuple[int, int],
        batch_size: int,
        mode: Fit = "squash",
        workers: int | None = None,
        all_may_fail: bool = False,
        known: Callable[[Fingerprint], bool] | None = None,
        channels: int = 3,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; give 1 or more")
        self.paths = list(paths)
        self.size = size
        self.batch_size = batch_size
        self.mode: Fit = mode
        self.workers = workers or default_workers()
        self.all_may_fail = all_may_fail
        self.known = known
        self.channels = channels
        self.skipped = Skipped()
        self.fingerprints: dict[Path, Fingerprint] = {}
        self.known_count = 0

    def __iter__(self) -> Iterator[tuple[list[Path], Tensor]]:
        self.skipped, self.known_count = Skipped(), 0
        yield from decoded_batches(
            self.paths,
            self._decode,
            self.batch_size,
            self.workers,
            lambda path, reason: self.skipped.files.append((path, reason)),
        )
        some_readable = self.all_may_fail or self.known_count
        if self.paths and len(self.skipped) == len(self.paths) and not some_readable:
            raise InputError(f"none of the {len(self.paths)} images can be read; {self.skipped.summary(3)}")

    def _decode(self, path: Path) -> Tensor | None:
        content, fingerprint = read_content(path)
        if self.known is not None and self.known(fingerprint):
            self.known_count += 1
            return None
        pixels = read_resized(path, self.size, self.mode, self.channels, content)
        self.fingerprints[path] = fingerprint
        return pixels


def decoded_batches(
    sources: Iterable[Source],
    decode: Callable[[Source], Tensor | None],
    batch_size: int,
    workers: int,
    refused: Callable[[Source, str], None],
) -> Iterator[tuple[list[Source], Tensor]]:
    """Decode sources in batches, in order.

    Threads decode ahead by one batch, so memory does not grow with the number of sources.

    Args:
        sources: files or samples.
        decode: returns the pixels of a source, uint8 `[C, H, W]`, or None to leave it out; called from several threads.
        batch_size: sources per batch.
        workers: decoding threads.
        refused: called with each source for which `decode` raises an `InputError`, and the reason; it is left out.

    Yields:
        The sources and their pixels, float32 `[B, C, H, W]` in [0, 1]; every batch but the last is full.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[Source, Future[Tensor | None]]] = deque()
    remaining = iter(sources)
    batch: list[tuple[Source, Tensor]] = []
    try:
        while True:
            for source in islice(remaining, batch_size + workers - len(waiting)):
                waiting.append((source, pool.submit(decode, source)))
            if waiting:
                source, future = waiting.popleft()
                try:
                    pixels = future.result()
                    if pixels is not None:
                        batch.append((source, pixels))
                except InputError as error:
                    refused(source, str(error))
            if len(batch) == batch_size or (batch and not waiting):
                yield [source for source, _ in batch], torch.stack([pixels for _, pixels in batch]).float().div_(255)
                batch = []
            if not waiting:
                return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def default_workers() -> int:
    """One worker per core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)
