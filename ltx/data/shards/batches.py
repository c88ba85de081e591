"""Batches of whole images from shards, in order, for explaining: a share for each process, in constant memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ltx.data.images import Fit, Skipped, default_workers, read_image, resize
from ltx.data.shards.listing import Sample, Shard, read_shard
from ltx.errors import InputError


class ShardBatches:
    """Batches of the samples in shards; threads decode ahead by one batch, what cannot be read is skipped.

    Iterating gives `(samples, images)`: `images` float32 `[B, 3, H, W]` in [0, 1]. Rank r of R takes the samples
    from N·r/R to below N·(r + 1)/R, whatever is done already, so that ranks agree without a word.

    Args:
        shards: see `counted`.
        size, batch_size, mode, workers: see `ImageBatches`.
        done: names (`Sample.name`) that are left out.
        rank, ranks: this process among how many.

    Raises:
        InputError: while iterating, at the end, if not one sample could be read, now or before, by the only process.
    """

    def __init__(
        self,
        shards: list[Shard],
        size: int | tuple[int, int],
        batch_size: int,
        mode: Fit = "squash",
        workers: int | None = None,
        done: Container[str] = (),
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.shards = shards
        self.size = size
        self.batch_size = batch_size
        self.mode: Fit = mode
        self.workers = workers or default_workers()
        self.done = done
        total = sum(shard.samples for shard in shards)
        self.ranks = ranks
        self.first, self.end = total * rank // ranks, total * (rank + 1) // ranks
        self.skipped = Skipped()
        self._readable = False  # whether a sample could be read, now or by the run that has done it

    def __len__(self) -> int:
        """Samples of this process's share, done or not."""
        return self.end - self.first

    def __iter__(self) -> Iterator[tuple[list[Sample], Tensor]]:
        self.skipped, self._readable = Skipped(), False
        samples: list[Sample] = []
        pixels: list[Tensor] = []
        for sample, image in self._decoded():
            self._readable = True
            samples.append(sample)
            pixels.append(image)
            if len(samples) == self.batch_size:
                yield samples, torch.stack(pixels).float().div_(255)
                samples, pixels = [], []
        if samples:
            yield samples, torch.stack(pixels).float().div_(255)
        if self.skipped.files and not self._readable and self.ranks == 1:  # other processes may read what is whole
            raise InputError(f"none of the {len(self)} images can be read; {self.skipped.summary(3)}")

    def _decoded(self) -> Iterator[tuple[Sample, Tensor]]:
        pool = ThreadPoolExecutor(self.workers)
        waiting: deque[tuple[Sample, Future[Tensor]]] = deque()
        remaining = self._encoded()
        try:
            while True:
                for sample in itertools.islice(remaining, self.batch_size + self.workers - len(waiting)):
                    waiting.append((sample, pool.submit(self._decode, sample)))
                if not waiting:
                    return
                sample, future = waiting.popleft()
                try:
                    yield sample, future.result()
                except InputError as error:
                    self.skipped.files.append((Path(sample.name), str(error)))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, sample: Sample) -> Tensor:
        return resize(read_image(sample.name, sample.image), self.size, self.mode)

    def _encoded(self) -> Iterator[Sample]:
        start = 0
        for shard in self.shards:
            low, high = max(self.first - start, 0), min(self.end - start, shard.samples)
            start += shard.samples
            if low >= high:
                continue
            try:
                for sample in itertools.islice(read_shard(shard.url), low, high):
                    if sample.name in self.done:
                        self._readable = True
                    else:
                        yield sample
            except InputError as error:
                self.skipped.files.append((Path(shard.url), str(error)))
