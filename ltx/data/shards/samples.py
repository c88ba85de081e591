"""Samples of shards as items for loading processes: random crops for training, full images for validation."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, default_collate, get_worker_info

from ltx.data.cropping import Cropping
from ltx.data.reading import opened, read_resized
from ltx.data.shards.listing import Shard
from ltx.data.shards.plan import Plan, Portion
from ltx.data.shards.tar_reading import Sample
from ltx.data.shared_flags import shared_flags
from ltx.runtime.errors import InputError


class Broken:
    """The samples that cannot be read, shared by all loading processes; each is named once.

    Args:
        samples: number of samples in the shards.
    """

    def __init__(self, samples: int = 0) -> None:
        self._marks = shared_flags(samples)

    @property
    def count(self) -> int:
        """Number of samples that could not be read so far."""
        return int(self._marks.sum())

    def report(self, samples: slice, reason: str) -> None:
        """Warn of samples, given by their indices, unless all of them were reported before."""
        if not self._marks[samples].all():
            self._marks[samples] = 1
            warnings.warn(reason, stacklevel=3)


class ShardCrops(IterableDataset[dict[str, Any]]):
    """Collated batches of random crops; each loading process is one reader of the plan.

    Args:
        shards: the shards, in the order of the plan's counts.
        plan: order of the samples.
        cropping: the random crops.
        rank: rank of this process.
        start, length: the micro-batches from `start` to below `length`.
        broken: where unreadable samples are reported.
    """

    def __init__(
        self,
        shards: list[Shard],
        plan: Plan,
        cropping: Cropping,
        rank: int,
        start: int,
        length: int,
        broken: Broken,
    ) -> None:
        self.shards = shards
        self.plan = plan
        self.cropping = cropping
        self.rank = rank
        self.start = start
        self.length = length
        self.broken = broken
        self._firsts = [0, *itertools.accumulate(shard.samples for shard in shards)]

    def __len__(self) -> int:
        # The length of the whole training, wherever it starts: Lightning's counters resume from their own values.
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first = self.start + (worker.id if worker is not None else 0)
        items = self._items(first)
        for _ in range(first, self.length, self.plan.readers):
            yield default_collate(list(itertools.islice(items, self.plan.batch_size)))

    def _items(self, batch: int) -> Iterator[dict[str, Any]]:
        """The items of this reader from a micro-batch on.

        The next readable sample takes the place of a broken one, so each position has the same item after a
        resumption.
        """
        waiting: list[int] = []
        for position, (index, sample) in zip(self._positions(batch), self._encoded(batch), strict=False):
            waiting.append(position)
            if len(waiting) > self.plan.total:
                raise InputError(f"none of the {self.plan.total} images in the shards can be read")
            if sample is None:
                continue
            try:
                items = [self._item(index, sample, place) for place in waiting]
            except InputError as error:
                self.broken.report(slice(index, index + 1), f"{error}; the next image takes its place")
                continue
            yield from items
            waiting.clear()

    def _item(self, index: int, sample: Sample, position: int) -> dict[str, Any]:
        number = self.cropping.number(index, position, self.plan.total)
        with opened(sample.name, sample.image, self.cropping.channels) as source:
            image = self.cropping(source, number).pixels
        label = -1 if sample.label is None else sample.label
        item = {"image": image, "index": index, "name": sample.name, "position": position, "label": label}
        return item if self.cropping.crops_per_image is None else item | {"crop": number}

    def _positions(self, batch: int) -> Iterator[int]:
        for number in itertools.count(batch, self.plan.readers):
            place = (number * self.plan.ranks + self.rank) * self.plan.batch_size
            yield from range(place, place + self.plan.batch_size)

    def _encoded(self, batch: int) -> Iterator[tuple[int, Sample | None]]:
        """Index and sample in the order in which this reader shows them, from a micro-batch on.

        The sample is None if it cannot be read.
        """
        for _, portion, shown in self.plan.orders(self.rank, batch):
            remaining = portion.order[shown:].tolist()
            buffered: dict[int, tuple[int, Sample | None]] = {}
            reading = self._read(portion, set(remaining))
            for place in remaining:
                while place not in buffered:
                    at, index, sample = next(reading)
                    buffered[at] = index, sample
                yield buffered.pop(place)

    def _read(self, portion: Portion, wanted: set[int]) -> Iterator[tuple[int, int, Sample | None]]:
        """Read the samples at the `wanted` places of a portion, in order.

        Yields:
            Place in the portion, index among all samples, and the sample; None if it cannot be read.
        """
        for part in portion.parts:
            places = [place for place in range(part.at, part.at + part.count) if place in wanted]
            if not places:
                continue  # all of its samples were shown before the run was resumed
            shard = self.shards[part.shard]
            samples = enumerate(shard.read())
            at, sample, reason = -1, None, ""
            for place in places:
                inside = part.first + place - part.at
                try:
                    while at < inside and not reason:
                        at, sample = next(samples)
                except InputError as error:
                    reason = str(error)
                index = self._firsts[part.shard] + inside
                if reason:
                    lost = part.first + part.count - inside
                    self.broken.report(slice(index, index + lost), f"{reason}; {lost} images are lost")
                yield place, index, None if reason else sample


class WholeShards(IterableDataset[dict[str, Any]]):
    """Full images, squashed to `size`, in order; unreadable ones are left out.

    Args:
        shards: the shards; each loading process takes whole ones.
        size: height and width.
        broken: where unreadable samples are reported.
        rank, ranks: take the samples rank, rank + ranks, …
        channels: see `ltx.data.reading.decoded`.
    """

    def __init__(
        self,
        shards: list[Shard],
        size: tuple[int, int],
        broken: Broken,
        rank: int = 0,
        ranks: int = 1,
        channels: int = 3,
    ) -> None:
        self.channels = channels
        self.shards = shards
        self.size = size
        self.rank, self.ranks = rank, ranks
        self.broken = broken
        self._firsts = [0, *itertools.accumulate(shard.samples for shard in shards)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        reader, readers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for number in range(reader, len(self.shards), readers):
            first, shard = self._firsts[number], self.shards[number]
            due = first + (self.rank - first) % self.ranks  # this rank's next sample
            try:
                for index, sample in enumerate(shard.read(), start=first):
                    if index == due:
                        due += self.ranks
                        yield from self._item(index, sample)
            except InputError as error:
                rest = slice(due, first + shard.samples, self.ranks)
                self.broken.report(rest, f"{error}; the rest of it is skipped")

    def _item(self, index: int, sample: Sample) -> Iterator[dict[str, Any]]:
        try:
            image = read_resized(sample.name, self.size, channels=self.channels, content=sample.image)
        except InputError as error:
            self.broken.report(slice(index, index + 1), f"{error}; it is skipped")
            return
        yield {"image": image, "index": index, "name": sample.name}
