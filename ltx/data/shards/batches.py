"""Batches of whole images from shards, in order, for explaining: a share for each process, in constant memory."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator
from pathlib import Path

from torch import Tensor

from ltx.data.reading import Fit, Skipped, decoded_batches, default_workers, read_image, resize
from ltx.data.shards.listing import Sample, Shard
from ltx.runtime.errors import InputError


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
        encoded = self._encoded()
        for batch in decoded_batches(encoded, self._decode, self.batch_size, self.workers, self._refused):
            self._readable = True
            yield batch
        if self.skipped.files and not self._readable and self.ranks == 1:  # other processes may read what is whole
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
