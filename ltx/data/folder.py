"""Image files as a stream of random training crops that a run can resume at any step."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ltx.data.cropping import Crop, Cropping
from ltx.data.finding import Spec, image_root, search_images
from ltx.data.reading import file_state, opened, read_resized
from ltx.data.shared_flags import shared_flags
from ltx.data.stored_maps import StoredMaps
from ltx.data.training_images import StreamLoader, StreamSettings, TrainingImages, hold_out
from ltx.runtime.errors import InputError

Item = TypeVar("Item")
Draw = tuple[int, int]  # index of the image, position in the stream


class FolderData(TrainingImages):
    """Training crops and validation images from files; see `TrainingImages` for loaders and batches.

    Each position of the training stream always shows the same crop of the same image. Ranks share a global batch that
    does not depend on their number. `index` counts in `train_files` or `val_files`. A file that cannot be read is
    replaced by the next readable one and named once by a warning. With `maps`, training batches also contain `map`
    `[B, 1, h, w]` and `map_target` `[B]`, see `StoredMaps.lookup`.

    Args:
        images: see `ltx.data.finding.find_images`.
        settings: what the stream shows. Without `val_images`, `val_share` of the files, at least one, are held out,
            chosen by a hash of the seed and the path below the images' folder.
        maps: a map of each training image, cropped and mirrored with it; None = no maps.
        out: folder of the run's own pictures, which are excluded.

    Raises:
        InputError: no images, none that can be read, or one in both training and validation.
    """

    def __init__(
        self, images: Spec, settings: StreamSettings, maps: StoredMaps | None = None, out: Path | None = None
    ) -> None:
        super().__init__(settings)
        self.images = images
        self.maps = maps
        self.out = out
        self.train_files: list[Path] = []
        self.val_files: list[Path] = []
        self._left_out = ""

    def setup(self, stage: str | None = None) -> None:
        """Find the files, divide them, and check that they suffice; later calls find nothing new."""
        if not self.train_files:
            self._find()
        self._check_validation()

    def _find(self) -> None:
        # A training stops before it starts if an entry names no image.
        found = search_images(self.images, self.out).complete()
        train, summaries = found.files, [found.summary()]
        if self.val_images is not None:
            found = search_images(self.val_images, self.out).complete()
            val = found.files
            summaries.append(found.summary())
            _check_disjoint(train, val)
        else:
            names = names_below(image_root(self.images), train)
            train, val = hold_out(train, names, self.val_share, self.seed, "image file")
        self._train = Crops(train, self.cropping, self.maps)
        try:
            self._train.first_readable(0, lambda file: read_resized(file, 8, channels=self.channels))
        except InputError as error:
            raise InputError(f"images={self.images}: {error}") from error
        self.train_files, self.val_files = train, val
        self._left_out = "; ".join(filter(None, summaries))
        self._val = WholeImages(val, self.size, self.channels)

    @property
    def train_count(self) -> int:
        return len(self.train_files)

    @property
    def val_count(self) -> int:
        return len(self.val_files)

    @property
    def broken_count(self) -> int:
        return self._train.broken + self._val.broken

    @property
    def identity(self) -> str:
        # Reading a million files would take longer than explaining some of them.
        return "\n".join(f"{os.path.abspath(file)} {file_state(file)}" for file in self.train_files)

    def describe(self) -> str:
        text = f"{self.train_count} training and {self.val_count} validation images in files"
        return f"{text}; {self._left_out}" if self._left_out else text

    def train_dataloader(self) -> DataLoader[Any]:
        """The stream from the trainer's step on. Its length is that of the whole training, as Lightning counts it."""
        rank, ranks = self._rank
        stream = Stream(
            count=len(self._train),
            batch_size=self.batch_size,
            length=self._length,
            start=self._start,
            seed=self.seed,
            rank=rank,
            ranks=ranks,
        )
        return StreamLoader(self._train, batch_sampler=stream, **self._loading())

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Full images, squashed to `size`, in order; rank r of R takes the images r, r + R, r + 2R, …"""
        if not self.val_files:
            return []
        rank, ranks = self._rank
        return DataLoader(
            self._val,
            batch_size=self.batch_size,
            sampler=range(rank, len(self._val), ranks),
            **self._loading(),
        )

    def validation_images(self, count: int) -> Tensor:
        self.setup()
        dataset = self._val if self.val_files else WholeImages(self.train_files, self.size, self.channels)
        images = [dataset[index]["image"] for index in range(min(count, len(dataset)))]
        return torch.stack(images).float().div_(255) if images else torch.empty(0, self.channels, *self.size)


# -- division into training and validation -------------------------------------------------------------------------


def names_below(root: Path, files: Sequence[Path]) -> list[str]:
    """The files' paths relative to a folder, which do not depend on its location."""
    return [Path(os.path.relpath(os.path.abspath(file), root)).as_posix() for file in files]


def _check_disjoint(train: Sequence[Path], val: Sequence[Path]) -> None:
    train_places = {os.path.realpath(file) for file in train}
    for file in val:
        if os.path.realpath(file) in train_places:
            raise InputError(f"{file} is in both images and val_images; an image may only be in one")


# -- the stream ----------------------------------------------------------------------------------------------------


class Stream(Sampler[list[Draw]]):
    """Micro-batches `start`, `start + 1`, … of an endless shuffle, as lists of (index of the image, position).

    Position p shows image `permutation(seed, p // count)[p % count]`. Micro-batch t consists of the positions
    `[t·B·R, (t + 1)·B·R)`; rank r takes the r-th run of B. So R ranks with batches of B see the same images as one
    rank with batches of R·B.
    """

    def __init__(
        self, count: int, batch_size: int, length: int, start: int = 0, seed: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        self.count = count
        self.batch_size = batch_size
        self.length = length
        self.start = start
        self.seed = seed
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        # The length of the whole training, wherever it starts: Lightning's counters resume from their own values.
        return self.length

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in range(self.start, self.length):
            first = (batch * self.ranks + self.rank) * self.batch_size
            yield [(self.index(position), position) for position in range(first, first + self.batch_size)]

    def index(self, position: int) -> int:
        """Index of the image at a position."""
        return int(_permutation(self.seed, position // self.count, self.count)[position % self.count])


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


# -- items ---------------------------------------------------------------------------------------------------------


class _Files(Dataset[dict[str, Any]]):
    """Files by index; the next readable file takes the place of a broken one."""

    def __init__(self, files: Sequence[Path], size: tuple[int, int]) -> None:
        # One array of text instead of a list of objects: reference counting in the workers would copy the memory.
        self._names = np.array([str(file) for file in files], dtype=np.str_)
        self.size = size
        self._broken = shared_flags(len(files))

    def __len__(self) -> int:
        return len(self._names)

    @property
    def broken(self) -> int:
        """Number of files that could not be read so far, by any worker."""
        return int(self._broken.sum())

    def first_readable(self, index: int, read: Callable[[str], Item]) -> tuple[int, Item]:
        """The first file from `index` on that `read` can read: its index, and what `read` returned.

        Files before it that cannot be read are named once, and not tried again.

        Raises:
            InputError: no file can be read; this line names one, and warnings for each would hide it.
        """
        refused: dict[int, str] = {}
        for offset in range(len(self)):
            chosen = (index + offset) % len(self)
            if self._broken[chosen]:
                continue
            try:
                item = read(str(self._names[chosen]))
            except InputError as error:
                refused[chosen] = str(error)
                continue
            for place, reason in refused.items():
                self._broken[place] = 1
                warnings.warn(f"{reason}; the next image takes its place", stacklevel=2)
            return chosen, item
        first = next(iter(refused.values()), f"{self._names[index]} was refused before")
        raise InputError(f"none of the {len(self)} images can be read; {first}")


class Crops(_Files):
    """Random resized crops. An item, indexed by (index, position), depends only on these and the seed."""

    def __init__(self, files: Sequence[Path], cropping: Cropping, maps: StoredMaps | None = None) -> None:
        super().__init__(files, cropping.size)
        self.cropping = cropping
        self.maps = maps

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        index, position = draw
        number = self.cropping.number(index, position, len(self))
        chosen, crop = self.first_readable(index, lambda file: self._crop(file, number))
        name = str(self._names[chosen])
        item = {"image": crop.pixels, "index": chosen, "name": name, "position": position}
        if self.cropping.crops_per_image is not None:
            item["crop"] = number
        if self.maps is not None:
            maps, targets = self.maps.lookup([name], [crop.box], [crop.mirrored])
            item |= {"map": maps[0], "map_target": targets[0]}
        return item

    def _crop(self, file: str, number: int) -> Crop:
        with opened(file, channels=self.cropping.channels) as source:
            return self.cropping(source, number)


class WholeImages(_Files):
    """Full images, squashed to `size`."""

    def __init__(self, files: Sequence[Path], size: tuple[int, int], channels: int = 3) -> None:
        super().__init__(files, size)
        self.channels = channels

    def __getitem__(self, index: int) -> dict[str, Any]:
        chosen, pixels = self.first_readable(index, lambda file: read_resized(file, self.size, channels=self.channels))
        return {"image": pixels, "index": chosen, "name": str(self._names[chosen])}
