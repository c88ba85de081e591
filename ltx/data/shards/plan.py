"""Who shows which sample when: every sample once an epoch, whatever the shards' sizes, for any ranks and readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ltx.runtime.errors import InputError


@dataclass(frozen=True)
class Part:
    """A run of samples of one shard, and where it stands in the epoch's order of one reader."""

    shard: int
    first: int
    count: int
    at: int


@dataclass(frozen=True)
class Portion:
    """What one reader shows of an epoch: parts of shards that it reads in order, and the order in which it shows them.

    Attributes:
        parts: of shards, in the order of reading.
        order: `order[j]` = which of the samples so read is shown as the j-th.
    """

    parts: list[Part]
    order: np.ndarray


class Plan:
    """An endless stream of samples for `ranks * readers` sequential readers, worked out from counts alone.

    Places in the stream are counted over all ranks: micro-batch t holds the places `[t·B·R, (t + 1)·B·R)`, of which
    rank r takes the r-th B, and reader `t mod W` of each rank fetches it. An epoch is N places, N the number of
    samples. Its shards are shuffled and laid end to end; each reader takes a run of exactly as many samples as it has
    places in that epoch. So all samples are shown once, ranks never wait for one another's last batch, and fewer than
    `R·W` shards are opened by two readers. Within its run a reader shuffles with a buffer.

    All of it follows from the seed and the counts, so the stream can be entered at any micro-batch.

    Args:
        counts: samples of each shard.
        batch_size: B, images for each rank and micro-batch.
        ranks: R.
        readers: W, reading processes of each rank.
        buffer: samples that a reader holds for shuffling.
        seed: of the orders.

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
        """For the reader of a rank's micro-batch `batch`, from there on: epoch, portion, and how much of it is past."""
        lane = batch % self.readers * self.ranks + rank
        place = batch * self.batch_size * self.ranks
        epoch = place // self.total
        past = int(self._owned(place)[lane] - self._owned(epoch * self.total)[lane])
        while True:
            yield epoch, self.portion(epoch, lane), past
            epoch, past = epoch + 1, 0

    def portion(self, epoch: int, lane: int) -> Portion:
        """What reader `lane` (reader within the rank, times the ranks, plus the rank) shows of an epoch."""
        quotas = self._owned((epoch + 1) * self.total) - self._owned(epoch * self.total)
        begin = int(quotas[:lane].sum())
        end = begin + int(quotas[lane])
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
        ends = np.cumsum(self.counts[shuffled])
        parts, at = [], 0
        for position in range(int(np.searchsorted(ends, begin, side="right")), len(shuffled)):
            shard = int(shuffled[position])
            start = int(ends[position] - self.counts[shard])
            low, high = max(begin, start), min(end, int(ends[position]))
            if low >= high:
                break
            parts.append(Part(shard, low - start, high - low, at))
            at += high - low
        order = buffered_shuffle(at, self.buffer, np.random.default_rng([self.seed, epoch, lane]))
        return Portion(parts, order)

    def _owned(self, places: int) -> np.ndarray:
        """How many of the first `places` places belong to each reader, `[R·W]`."""
        lanes = self.ranks * self.readers
        blocks, rest = divmod(places, self.batch_size)
        owned = (blocks // lanes + (np.arange(lanes) < blocks % lanes)) * self.batch_size
        owned[blocks % lanes] += rest
        return owned


def buffered_shuffle(count: int, buffer: int, random: np.random.Generator) -> np.ndarray:
    """The order in which a shuffle buffer of that size gives `count` samples that come in order.

    Sample i is shown after at least sample `j - buffer` was read when it is the j-th: so a reader that shows the j-th
    holds `buffer` samples at most.
    """
    size = max(1, min(buffer, count))
    held = list(range(size))
    order = np.empty(count, dtype=np.int64)
    for shown, drawn in enumerate(random.integers(0, size, max(0, count - size)).tolist()):
        order[shown] = held[drawn]
        held[drawn] = size + shown
    if count:
        order[count - size :] = np.asarray(held, dtype=np.int64)[random.permutation(size)]
    return order
