"""Batches of full images from shards, in order and in constant memory; each process reads its share."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator
from pathlib import Path

from torch import Tensor

from ltx.data.reading import Fit, Skipped, decoded_batches, default_workers, read_image, resize
from ltx.data.shards.listing import Sample, Shard
from ltx.runtime.errors import InputError


class ShardBatches:
    """Batches of the samples in shards; threads decode ahead by one batch, unreadable samples are skipped.

    Iterating yields `(samples, images)` with `images` float32 `[B, 3, H, W]` in [0, 1]. Rank r of R takes the samples
    from N·r/R to below N·(r + 1)/R. The shares do not depend on `done`, so ranks agree without communicating.

    Args:
        shards: see `counted`.
        size, batch_size, mode, workers: see `ImageBatches`.
        done: names (`Sample.name`) of the samples to leave out.
        rank: rank of this process.
        ranks: number of processes.

    Raises:
        InputError: at the end of the iteration, if a single process could read no sample and none is in `done`.
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
        self._readable = False  # whether a sample could be read, now or by a previous run

    def __len__(self) -> int:
        """Number of samples in this process's share, including those in `done`."""
        return self.end - self.first

    def __iter__(self) -> Iterator[tuple[list[Sample], Tensor]]:
        self.skipped, self._readable = Skipped(), False
        encoded = self._encoded()
        for batch in decoded_batches(encoded, self._decode, self.batch_size, self.workers, self._refused):
            self._readable = True
            yield batch
        if self.skipped.files and not self._readable and self.ranks == 1:  # other processes may have readable ones
            raise InputError(f"none of the {len(self)} images can be read; {self.skipped.summary(3)}")

    def _decode(self, sample: Sample) -> Tensor:
        return resize(read_image(sample.name, sample.image), self.size, self.mode)

    def _refused(self, sample: Sample, reason: str) -> None:
        self.skipped.files.append((Path(sample.name), reason))

    def _encoded(self) -> Iterator[Sample]:
        start = 0
        for shard in self.shards:
            low, high = max(self.first - start, 0), min(self.end - start, shard.samples)
            start += shard.samples
            if low >= high:
                continue
            try:
                for sample in itertools.islice(shard.read(), low, high):
                    if sample.name in self.done:
                        self._readable = True
                    else:
                        yield sample
            except InputError as error:
                self.skipped.files.append((Path(shard.url), str(error)))
