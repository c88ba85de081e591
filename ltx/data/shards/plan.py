"""Order of the samples in shards: each once per epoch, for shards of any size and any number of ranks and readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ltx.runtime.errors import InputError


@dataclass(frozen=True)
class Part:
    """A run of samples of one shard.

    Attributes:
        shard: index of the shard.
        first: index within the shard of the run's first sample.
        count: samples in the run.
        at: index of the run's first sample among those that the reader reads in this epoch.
    """

    shard: int
    first: int
    count: int
    at: int


@dataclass(frozen=True)
class Portion:
    """The samples that one reader shows in an epoch.

    Attributes:
        parts: runs of samples, in the order in which they are read.
        order: `order[j]` = index, among the samples as read, of the j-th sample shown.
    """

    parts: list[Part]
    order: np.ndarray


class Plan:
    """An endless stream of samples for `ranks * readers` sequential readers, computed from the counts alone.

    Positions in the stream are counted over all ranks. Micro-batch t consists of the positions `[t·B·R, (t + 1)·B·R)`:
    rank r takes the r-th run of B, and reader `t mod W` of each rank fetches it. An epoch is N positions, with N the
    number of samples. Its shards are shuffled and concatenated, and each reader takes a run of exactly as many samples
    as it has positions in that epoch. So every sample is shown once, no rank waits for another's last batch, and fewer
    than `R·W` shards are opened by two readers. Within its run a reader shuffles with a buffer.

    The order follows from the seed and the counts, so the stream can be resumed at any micro-batch.

    Args:
        counts: samples of each shard.
        batch_size: B, images per rank and micro-batch.
        ranks: R.
        readers: W, reading processes per rank.
        buffer: samples in a reader's shuffle buffer.
        seed: random seed.

    Raises:
        InputError: fewer shards than readers.
    """

    def __init__(
        self, counts: Sequence[int], batch_size: int, ranks: int, readers: int, buffer: int, seed: int
    ) -> None:
        if len(counts) < ranks * readers:
            raise InputError(
                f"{len(counts)} shards cannot be divided among {ranks} ranks x {readers} workers = {ranks * readers} "
                + (
                    f"readers; set data.workers={len(counts) // ranks} or less, or make more and smaller shards"
                    if len(counts) >= ranks
                    else f"readers; use {len(counts)} devices or fewer, or make more and smaller shards"
                )
            )
        self.counts = np.asarray(counts, dtype=np.int64)
        self.total = int(self.counts.sum())
        self.batch_size, self.ranks, self.readers = batch_size, ranks, readers
        self.buffer, self.seed = buffer, seed

    def orders(self, rank: int, batch: int) -> Iterator[tuple[int, Portion, int]]:
        """The portions of the reader that fetches micro-batch `batch` of `rank`, from that micro-batch on.

        Yields:
            The epoch, the portion, and the number of its samples that were already shown.
        """
        lane = batch % self.readers * self.ranks + rank
        position = batch * self.batch_size * self.ranks
        epoch = position // self.total
        shown = int(self._owned(position)[lane] - self._owned(epoch * self.total)[lane])
        while True:
            yield epoch, self.portion(epoch, lane), shown
            epoch, shown = epoch + 1, 0

    def portion(self, epoch: int, lane: int) -> Portion:
        """The portion of an epoch that reader `lane` shows; `lane` = reader within the rank · R + rank."""
        quotas = self._owned((epoch + 1) * self.total) - self._owned(epoch * self.total)
        begin = int(quotas[:lane].sum())
        end = begin + int(quotas[lane])
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
        ends = np.cumsum(self.counts[shards])
        parts, at = [], 0
        for position in range(int(np.searchsorted(ends, begin, side="right")), len(shards)):
            shard = int(shards[position])
            start = int(ends[position] - self.counts[shard])
            low, high = max(begin, start), min(end, int(ends[position]))
            if low >= high:
                break
            parts.append(Part(shard, low - start, high - low, at))
            at += high - low
        order = buffered_shuffle(at, self.buffer, np.random.default_rng([self.seed, epoch, lane]))
        return Portion(parts, order)

    def _owned(self, positions: int) -> np.ndarray:
        """How many of the first `positions` positions belong to each reader, `[R·W]`."""
        lanes = self.ranks * self.readers
        blocks, rest = divmod(positions, self.batch_size)
        owned = (blocks // lanes + (np.arange(lanes) < blocks % lanes)) * self.batch_size
        owned[blocks % lanes] += rest
        return owned


def buffered_shuffle(count: int, buffer: int, random: np.random.Generator) -> np.ndarray:
    """The order in which a shuffle buffer returns `count` samples that arrive in order.

    The j-th sample shown is one of the first `j + buffer` read, so a reader holds at most `buffer` samples.

    Returns:
        Indices of the samples, int64 `[count]`.
    """
    size = max(1, min(buffer, count))
    buffered = list(range(size))
    order = np.empty(count, dtype=np.int64)
    for shown, drawn in enumerate(random.integers(0, size, max(0, count - size)).tolist()):
        order[shown] = buffered[drawn]
        buffered[drawn] = size + shown
    if count:
        order[count - size :] = np.asarray(buffered, dtype=np.int64)[random.permutation(size)]
    return order
