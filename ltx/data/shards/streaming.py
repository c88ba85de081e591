"""Images in webdataset shards as a stream of random training crops that a run can resume at any step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from ltx.data.finding import search_images
from ltx.data.folder import WholeImages
from ltx.data.reading import file_state
from ltx.data.shards.batches import absolute_sample
from ltx.data.shards.listing import Shard, Shards, counted, expand, is_shards
from ltx.data.shards.plan import Plan
from ltx.data.shards.samples import Broken, ShardCrops, WholeShards
from ltx.data.shards.tar_reading import local_path
from ltx.data.training_images import StreamLoader, StreamSettings, TrainingImages, hold_out
from ltx.runtime.errors import InputError


class ShardData(TrainingImages):
    """Training crops and validation images from local or remote tar files, each read sequentially.

    See `TrainingImages` for loaders and batches. Batches also contain `label`, int64 `[B]`, from the sample's `.cls`
    member; -1 = no label. Every sample is shown once per epoch, in an order that depends on the numbers of ranks and
    workers, see `Plan`. An image that cannot be read is replaced by the reader's next one, counted, and named once by
    a warning.

    Args:
        shards: see `ltx.data.shards.listing.expand`.
        settings: what the stream shows. `val_images` may be files or shards; without them `val_share` of the shards,
            at least one, are held out, chosen by a hash of the seed and the name. `workers` None = as many as there
            are shards for, at most one per core and at most 8.
        manifest: see `ltx.data.shards.listing.counted`.
        shuffle: encoded samples in each reader's shuffle buffer; 1 = the order of the shards.

    Raises:
        InputError: missing shards, shards that cannot be counted, or too few for the readers.
    """

    def __init__(
        self, shards: Shards, settings: StreamSettings, manifest: str | None = None, shuffle: int = 1000
    ) -> None:
        super().__init__(settings)
        if shuffle < 1:
            raise InputError(f"shuffle={shuffle}; give 1 (the order of the shards) or more")
        self.shards = shards
        self.manifest = manifest
        self.shuffle = shuffle
        self.free_workers = settings.workers is None
        self.train_shards: list[Shard] = []
        self.val_shards: list[Shard] = []
        self._val_files: WholeImages | None = None
        self._left_out = ""
        self._train_broken, self._val_broken = Broken(), Broken()

    def setup(self, stage: str | None = None) -> None:
        """Find and count the shards, divide them, and check that they suffice; later calls find nothing new."""
        if not self.train_shards:
            urls = expand(self.shards)
            val: list[str] = []
            if self.val_images is None:
                names = [url.rsplit("/", 1)[-1] for url in urls]
                urls, val = hold_out(urls, names, self.val_share, self.seed, "shard")
            elif is_shards(self.val_images):
                val = expand(self.val_images)
            else:
                found = search_images(self.val_images).complete()
                self._val_files = WholeImages(found.files, self.size, self.channels)
                self._left_out = found.summary()
            shared = set(urls) & set(val)
            if shared:
                raise InputError(f"{min(shared)} is in both shards and val_images; a shard may only be in one")
            self.train_shards = counted(urls, self.manifest)
            self.val_shards = counted(val, self.manifest if self.val_images is None else None) if val else []
            self._train_broken, self._val_broken = (
                Broken(sum(shard.samples for shard in shards)) for shards in (self.train_shards, self.val_shards)
            )
        ranks = self._rank[1]
        if self.free_workers:
            self.workers = min(self._fewest_workers(), max(1, len(self.train_shards) // ranks))
        # Raise before training starts.
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
        return "\n".join(f"{absolute_sample(s.url)} {s.samples} {_state(s.url)}" for s in self.train_shards)

    def describe(self) -> str:
        val = "files" if self._val_files else f"{len(self.val_shards)} shards"
        text = f"{self.train_count} training images in {len(self.train_shards)} shards, {self.val_count} validation "
        return f"{text}images in {val}" + (f"; {self._left_out}" if self._left_out else "")

    def train_dataloader(self) -> DataLoader[Any]:
        """The stream from the trainer's step on. Its length is that of the whole training, as Lightning counts it."""
        rank = self._rank[0]
        crops = ShardCrops(
            self.train_shards, self._plan(), self.cropping, rank, self._start, self._length, self._train_broken
        )
        return StreamLoader(crops, batch_size=None, **self._loading())

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Full images, squashed to `size`, in order; rank r of R takes the images r, r + R, r + 2R, …"""
        if not self.val_count:
            return []
        rank, ranks = self._rank
        if self._val_files is None:
            whole = WholeShards(self.val_shards, self.size, self._val_broken, rank, ranks, self.channels)
            return DataLoader(whole, self.batch_size, **self._loading())
        places = range(rank, len(self._val_files), ranks)
        return DataLoader(self._val_files, self.batch_size, sampler=places, **self._loading())

    def validation_images(self, count: int) -> Tensor:
        self.setup()
        items: Iterator[dict[str, Any]]
        if self._val_files:
            items = (self._val_files[index] for index in range(len(self._val_files)))
        elif self.val_shards:
            items = iter(WholeShards(self.val_shards, self.size, self._val_broken, channels=self.channels))
        else:
            items = iter(WholeShards(self.train_shards, self.size, self._train_broken, channels=self.channels))
        images = [item["image"] for item in itertools.islice(items, count)]
        return torch.stack(images).float().div_(255) if images else torch.empty(0, self.channels, *self.size)

    def _fewest_workers(self) -> int:
        """The lowest number of workers over the ranks: their cores may differ, their numbers of readers may not."""
        if self.trainer is None or self.trainer.world_size == 1:
            return self.workers
        workers = torch.tensor(self.workers, device=self.trainer.strategy.root_device)
        return int(self.trainer.strategy.reduce(workers, reduce_op="min"))

    def state_dict(self) -> dict[str, Any]:
        """Identifies the shards and, as the order depends on them, the numbers of readers and the size of batches."""
        return super().state_dict() | {
            "ranks": self._rank[1],
            "workers": self.workers,
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Use as many workers as the interrupted run, if free to; warns of other shards and of another order."""
        super().load_state_dict(state_dict)
        ranks = self._rank[1]
        if self.free_workers and state_dict["ranks"] == ranks:
            self.workers = state_dict["workers"]
        batch_size = state_dict.get("batch_size", self.batch_size)  # not known of runs of earlier versions
        previous = (state_dict["ranks"], max(1, state_dict["workers"]), batch_size)
        current = (ranks, max(1, self.workers), self.batch_size)
        if previous != current:
            rank_zero_warn(
                "the shards were read by {} processes with {} workers each in batches of {}, ".format(*previous)
                + "now by {} with {} in batches of {}, which changes the order: ".format(*current)
                + "this epoch shows some images twice and others not at all"
            )

    def _plan(self) -> Plan:
        counts = [shard.samples for shard in self.train_shards]
        return Plan(counts, self.batch_size, self._rank[1], max(1, self.workers), self.shuffle, self.seed)


def _state(url: str) -> str:
    """Size and modification time of a local shard; empty for a remote one."""
    place = local_path(url)
    return "" if place is None else file_state(place)
