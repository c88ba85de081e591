"""Photographs in webdataset shards as a stream of random crops that any run can re-enter at any step."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from ltx.data.cropping import Cropping
from ltx.data.finding import Spec, find_images
from ltx.data.folder import WholeImages
from ltx.data.reading import opened, read_image, resize
from ltx.data.shards.listing import Sample, Shard, Shards, counted, expand, is_shards
from ltx.data.shards.plan import Plan, Portion
from ltx.data.training_images import StreamLoader, TrainingImages, hold_out
from ltx.runtime.errors import InputError


class ShardData(TrainingImages):
    """Training crops and validation images from tar files, local or remote, each read from its beginning.

    For loaders and batches see `TrainingImages`; batches have `label` too, int64 `[B]`, -1 where a sample has none (a
    file `….cls`). For the order see `Plan`: every sample once an epoch; it depends on the numbers of ranks and workers.
    A picture that cannot be read is named by a warning, counted, and replaced by the reader's next one.

    Args:
        shards: see `ltx.data.shards.expand`.
        val_images: validation images, as files or as shards; None holds out `val_share` of the shards: at least one,
            chosen by a hash of seed and name.
        manifest: see `ltx.data.shards.counted`.
        shuffle: samples that each reader holds, in their encoded form, for shuffling.
        size, batch_size, max_steps, accumulate, workers, val_share, seed, crop_scale, flip, crops: see
            `TrainingImages`; `workers` None = as many as there are shards for, one a core and 8 at most.

    Raises:
        InputError: shards that are not there, are not counted or are too few for the readers; impossible numbers.
    """

    def __init__(
        self,
        shards: Shards,
        size: int | tuple[int, int],
        batch_size: int,
        max_steps: int,
        val_images: Spec | None = None,
        val_share: float = 0.1,
        manifest: str | None = None,
        shuffle: int = 1000,
        accumulate: int = 1,
        workers: int | None = None,
        seed: int = 0,
        crop_scale: tuple[float, float] = (0.35, 1.0),
        flip: bool = True,
        crops: int | None = None,
    ) -> None:
        super().__init__(size, batch_size, max_steps, accumulate, workers, val_share, seed, crop_scale, flip, crops)
        if shuffle < 1:
            raise InputError(f"shuffle={shuffle}; give 1 (the order of the shards) or more")
        self.shards = shards
        self.val_images = val_images
        self.manifest = manifest
        self.shuffle = shuffle
        self.free_workers = workers is None
        self.train_shards: list[Shard] = []
        self.val_shards: list[Shard] = []
        self._val_files: WholeImages | None = None
        self._train_broken, self._val_broken = Broken(), Broken()

    def setup(self, stage: str | None = None) -> None:
        """Find and count the shards, divide them, and check that they suffice; a second call finds nothing new."""
        if not self.train_shards:
            urls = expand(self.shards)
            val: list[str] = []
            if self.val_images is None:
                names = [url.rsplit("/", 1)[-1] for url in urls]
                urls, val = hold_out(urls, names, self.val_share, self.seed, "shard")
            elif is_shards(self.val_images):
                val = expand(self.val_images)
            else:
                self._val_files = WholeImages(find_images(self.val_images), self.size)
            both = set(urls) & set(val)
            if both:
                raise InputError(f"{min(both)} is in both shards and val_images; a shard may only be in one")
            self.train_shards = counted(urls, self.manifest)
            self.val_shards = counted(val, self.manifest if self.val_images is None else None) if val else []
            self._train_broken, self._val_broken = (
                Broken(sum(shard.samples for shard in shards)) for shards in (self.train_shards, self.val_shards)
            )
        ranks = self._rank[1]
        if self.free_workers:
            self.workers = min(self._fewest_workers(), max(1, len(self.train_shards) // ranks))
        # Both raise before anything is trained.
        self._plan()
        self._check_validation()

    @property
    def train_count(self) -> int:
        return sum(shard.samples for shard in self.train_shards)

    @property
    def val_count(self) -> int:
        return len(self._val_files) if self._val_files else sum(shard.samples for shard in self.val_shards)

    @property
    def broken_count(self) -> int:
        in_shards = self._train_broken.count + self._val_broken.count
        return in_shards + (self._val_files.broken if self._val_files else 0)

    @property
    def identity(self) -> str:
        return "\n".join(f"{shard.url} {shard.samples}" for shard in self.train_shards)

    def describe(self) -> str:
        val = "files" if self._val_files else f"{len(self.val_shards)} shards"
        return (
            f"{self.train_count} training images in {len(self.train_shards)} shards, {self.val_count} validation "
            f"images in {val}"
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """The stream from the trainer's step on; its length is that of the whole training, as Lightning counts it."""
        rank = self._rank[0]
        crops = ShardCrops(
            self.train_shards, self._plan(), self.cropping, rank, self._start, self._length, self._train_broken
        )
        return StreamLoader(crops, batch_size=None, **self._loading())

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Whole images, squashed to `size`, in order; rank r of R takes the images r, r + R, r + 2R, …"""
        if not self.val_count:
            return []
        rank, ranks = self._rank
        if self._val_files is None:
            whole = WholeShards(self.val_shards, self.size, self._val_broken, rank, ranks)
            return DataLoader(whole, self.batch_size, **self._loading())
        places = range(rank, len(self._val_files), ranks)
        return DataLoader(self._val_files, self.batch_size, sampler=places, **self._loading())

    def validation_images(self, count: int) -> Tensor:
        self.setup()
        items: Iterator[dict[str, Any]]
        if self._val_files:
            items = (self._val_files[index] for index in range(len(self._val_files)))
        elif self.val_shards:
            items = iter(WholeShards(self.val_shards, self.size, self._val_broken))
        else:
            items = iter(WholeShards(self.train_shards, self.size, self._train_broken))
        shown = [item["image"] for item in itertools.islice(items, count)]
        return torch.stack(shown).float().div_(255) if shown else torch.empty(0, 3, *self.size)

    def _fewest_workers(self) -> int:
        """Of the ranks, whose numbers of cores may differ: they divide the samples among as many readers each."""
        if self.trainer is None or self.trainer.world_size == 1:
            return self.workers
        own = torch.tensor(self.workers, device=self.trainer.strategy.root_device)
        return int(self.trainer.strategy.reduce(own, reduce_op="min"))

    def state_dict(self) -> dict[str, Any]:
        """Who reads the stream: a resumed run goes on with the same readers."""
        return {"ranks": self._rank[1], "workers": self.workers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ranks = self._rank[1]
        if self.free_workers and state_dict["ranks"] == ranks:
            self.workers = state_dict["workers"]
        before, now = (state_dict["ranks"], max(1, state_dict["workers"])), (ranks, max(1, self.workers))
        if before != now:
            rank_zero_warn(
                f"the shards were read by {before[0]} processes with {before[1]} workers each, now by {now[0]} with "
                f"{now[1]}, which is another order: this epoch shows some images twice and others not at all"
            )

    def _plan(self) -> Plan:
        counts = [shard.samples for shard in self.train_shards]
        return Plan(counts, self.batch_size, self._rank[1], max(1, self.workers), self.shuffle, self.seed)


class Broken:
    """Which of the samples in some shards cannot be read, as all loading processes found; each is named once."""

    def __init__(self, samples: int = 0) -> None:
        self._marks = torch.zeros(samples, dtype=torch.uint8).share_memory_()

    @property
    def count(self) -> int:
        return int(self._marks.sum())

    def tell(self, samples: slice, reason: str) -> None:
        """Warn of samples, given by their indices, unless all of them were told of before."""
        if not self._marks[samples].all():
            self._marks[samples] = 1
            warnings.warn(reason, stacklevel=3)


class ShardCrops(IterableDataset[dict[str, Any]]):
    """Ready batches of random crops, one reader's share of the stream in each loading process.

    Args:
        plan: who shows what when.
        rank: of this process.
        start, length: the micro-batches from `start` to below `length`.
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
        # Of the whole training, wherever it starts: Lightning's own counters go on from where they were.
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first = self.start + (worker.id if worker is not None else 0)
        items = self._items(first)
        for _ in range(first, self.length, self.plan.readers):
            yield default_collate(list(itertools.islice(items, self.plan.batch_size)))

    def _items(self, batch: int) -> Iterator[dict[str, Any]]:
        """What this reader shows from a micro-batch on. The place of a broken picture is filled by the next readable
        one, so that the same place has the same item after a resumption too."""
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
                self.broken.tell(slice(index, index + 1), f"{error}; the next image takes its place")
                continue
            yield from items
            waiting.clear()

    def _item(self, index: int, sample: Sample, position: int) -> dict[str, Any]:
        number = self.cropping.number(index, position, self.plan.total)
        with opened(sample.name, sample.image) as source:
            image = self.cropping(source, number).pixels
        label = -1 if sample.label is None else sample.label
        item = {"image": image, "index": index, "name": sample.name, "position": position, "label": label}
        return item if self.cropping.each is None else item | {"crop": number}

    def _positions(self, batch: int) -> Iterator[int]:
        for number in itertools.count(batch, self.plan.readers):
            place = (number * self.plan.ranks + self.rank) * self.plan.batch_size
            yield from range(place, place + self.plan.batch_size)

    def _encoded(self, batch: int) -> Iterator[tuple[int, Sample | None]]:
        """The samples of this reader as they are shown from a micro-batch on; None for one that cannot be read."""
        for _, portion, past in self.plan.orders(self.rank, batch):
            wanted = portion.order[past:]
            held: dict[int, tuple[int, Sample | None]] = {}
            reading = self._read(portion, set(wanted.tolist()))
            for place in wanted.tolist():
                while place not in held:
                    at, index, sample = next(reading)
                    held[at] = index, sample
                yield held.pop(place)

    def _read(self, portion: Portion, wanted: set[int]) -> Iterator[tuple[int, int, Sample | None]]:
        """(place in the portion, index among all samples, sample) for each wanted place in order."""
        for part in portion.parts:
            places = [place for place in range(part.at, part.at + part.count) if place in wanted]
            if not places:
                continue  # its samples were all shown before the resumption
            shard = self.shards[part.shard]
            samples = enumerate(shard.read())
            at, found, reason = -1, None, ""
            for place in places:
                inside = part.first + place - part.at
                try:
                    while at < inside and not reason:
                        at, found = next(samples)
                except InputError as error:
                    reason = str(error)
                index = self._firsts[part.shard] + inside
                if reason:
                    lost = part.first + part.count - inside
                    self.broken.tell(slice(index, index + lost), f"{reason}; {lost} images are lost")
                yield place, index, None if reason else found


class WholeShards(IterableDataset[dict[str, Any]]):
    """Whole images, squashed to the size, in order; those that cannot be read are left out.

    Args:
        rank, ranks: of all samples, rank, rank + ranks, …; loading processes take whole shards.
    """

    def __init__(
        self, shards: list[Shard], size: tuple[int, int], broken: Broken, rank: int = 0, ranks: int = 1
    ) -> None:
        self.shards = shards
        self.size = size
        self.rank, self.ranks = rank, ranks
        self.broken = broken
        self._firsts = [0, *itertools.accumulate(shard.samples for shard in shards)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        own, readers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for number in range(own, len(self.shards), readers):
            first, shard = self._firsts[number], self.shards[number]
            due = first + (self.rank - first) % self.ranks  # the next sample that is this rank's
            try:
                for index, sample in enumerate(shard.read(), start=first):
                    if index == due:
                        due += self.ranks
                        yield from self._item(index, sample)
            except InputError as error:
                rest = slice(due, first + shard.samples, self.ranks)
                self.broken.tell(rest, f"{error}; the rest of it is skipped")

    def _item(self, index: int, sample: Sample) -> Iterator[dict[str, Any]]:
        try:
            image = resize(read_image(sample.name, sample.image), self.size)
        except InputError as error:
            self.broken.tell(slice(index, index + 1), f"{error}; it is skipped")
            return
        yield {"image": image, "index": index, "name": sample.name}
