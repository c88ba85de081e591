"""What is explained: photographs or mosaics of them, in chunks that are the same however the work is divided."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ltx.data.finding import read_labels
from ltx.data.reading import default_workers, opened, read_image, resize
from ltx.metrics.mosaic import Mosaic, assemble
from ltx.runtime.errors import InputError

TOLERANCE = 15  # pixels of the original picture, as in the pointing game's paper
LOSSY = (".jpg", ".jpeg")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", *LOSSY)


@dataclass
class Loaded:
    """A chunk on the CPU.

    Attributes:
        names: one an image.
        images: `[B, 3, H, W]` in [0, 1]; B may be 0.
        labels: class indices, or None where no listing gives them.
        objects, near_objects: bool `[B, 1, H, W]`, or None without masks.
        cells: `[B]` for mosaics, else None.
        classes: the classes to explain, where the samples decide them (mosaics), else None.
        skipped: files that were left out, with the reason.
    """

    names: list[str]
    images: Tensor
    labels: list[int] | None = None
    objects: Tensor | None = None
    near_objects: Tensor | None = None
    cells: Tensor | None = None
    classes: Tensor | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)


class Samples(Interface):
    """Something to explain, in numbered chunks."""

    def __len__(self) -> int:
        """How many chunks."""

    def load(self, chunk: int) -> Loaded:
        """Read a chunk."""

    def identity(self, chunk: int) -> list[object]:
        """What determines a chunk, without reading it."""

    def sizes(self) -> list[int]:
        """How many images each chunk has, if none is broken."""

    def photographs(self) -> Tensor | None:
        """Which photograph each sample explains `[n]`; None = each another."""


class Photographs:
    """Image files, with labels and object masks where asked for.

    Args:
        files: as `find_images` gives them.
        size: height and width the classifier takes; pictures are squashed to it, never cropped.
        batch_size: images in a chunk.
        labels: class index by file, see `find_labels`; None = not needed.
        masks: folder of object masks: `NAME.png` for the image `NAME.jpg`; non-zero = object, in a JPEG above 127.
    """

    def __init__(
        self,
        files: Sequence[Path],
        size: tuple[int, int],
        batch_size: int,
        labels: dict[Path, int] | None = None,
        masks: Path | None = None,
    ) -> None:
        self.chunks = [list(files[i : i + batch_size]) for i in range(0, len(files), batch_size)]
        self.size = size
        self.labels = labels
        self.masks = masks

    def __len__(self) -> int:
        return len(self.chunks)

    def sizes(self) -> list[int]:
        return [len(chunk) for chunk in self.chunks]

    def photographs(self) -> None:
        return None

    def identity(self, chunk: int) -> list[object]:
        known: list[object] = [[str(file), *_stamp(file)] for file in self.chunks[chunk]]
        if self.masks is not None:
            masks = [find_mask(self.masks, file) for file in self.chunks[chunk]]
            known.append([TOLERANCE, *[[str(mask), *_stamp(mask)] for mask in masks if mask is not None]])
        if self.labels is not None:
            known.append([self.labels.get(_real(file)) for file in self.chunks[chunk]])
        return known

    def load(self, chunk: int) -> Loaded:
        files = self.chunks[chunk]
        with ThreadPoolExecutor(default_workers()) as pool:
            parts = list(pool.map(self._read, files))
        good = [(file, part) for file, part in zip(files, parts, strict=True) if not isinstance(part, str)]
        skipped = [(str(file), part) for file, part in zip(files, parts, strict=True) if isinstance(part, str)]
        images = torch.stack([part[0] for _, part in good]) if good else torch.empty(0, 3, *self.size)
        objects = [torch.stack([part[1][i] for _, part in good]) for i in (0, 1)] if self.masks and good else None
        return Loaded(
            names=[str(file) for file, _ in good],
            images=images,
            labels=[self.labels[_real(file)] for file, _ in good] if self.labels is not None else None,
            objects=objects[0] if objects else None,
            near_objects=objects[1] if objects else None,
            skipped=skipped,
        )

    def _read(self, file: Path) -> tuple[Tensor, Tensor] | str:
        """Image and stacked masks `[2, 1, H, W]`, or why the file is left out."""
        if self.labels is not None and _real(file) not in self.labels:
            return f"{file} has no label in the listing"
        try:
            picture = read_image(file)
            image = resize(picture, self.size).float().div_(255)
            if self.masks is None:
                return image, torch.empty(0)
            mask = find_mask(self.masks, file)
            if mask is None:
                return f"{file} has no mask in {self.masks}"
            return image, torch.stack(read_masks(mask, picture.size, self.size))
        except InputError as error:
            return str(error)


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return (0, 0, 0)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns  # the last: who may read it has changed


def _real(file: Path) -> Path:
    return Path(os.path.realpath(file))


def find_mask(folder: Path, image: Path) -> Path | None:
    """The mask with the image's name, in the sub-folder of `folder` named as the image's own folder, or in `folder`.

    A file that is found so itself is given back as it is: a mask is its own mask.
    """
    for where in (folder / image.parent.name, folder):
        for suffix in MASK_SUFFIXES:
            mask = where / (image.stem + suffix)
            if mask.is_file():
                return image if mask.resolve() == image.resolve() else mask
    return None


def read_masks(file: Path, picture: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The object, and the object with the pointing game's tolerance, bool `[1, H, W]` at `size`.

    A pixel at `size` is near the object where its centre, carried back to the original picture, is within 15 px of it.

    Raises:
        InputError: a mask without object (at either size), unreadable, or of another size than its picture's `(width,
            height)`.
    """
    # What was exactly 0 is not so any more beside an edge that JPEG has stored.
    least = 127 if file.suffix.lower() in LOSSY else 0
    with opened(file) as stored:
        mask = np.asarray(stored.convert("L")) > least
    if mask.shape[::-1] != picture:
        raise InputError(f"{file} is {mask.shape[1]}x{mask.shape[0]} and its picture {picture[0]}x{picture[1]}")
    if not mask.any():
        raise InputError(f"{file} marks no object")
    height, width = size
    shrunk = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    if not shrunk.getbbox():
        raise InputError(f"{file} marks an object that has no pixel left at {width}x{height}")
    near = distance_transform_edt(~mask)[rows][:, columns] <= TOLERANCE
    return torch.from_numpy(np.array(shrunk) > 0)[None], torch.from_numpy(near)[None]


def find_labels(files: Sequence[Path], listing: str | None, roots: Sequence[str]) -> dict[Path, int]:
    """Class index by resolved path, from `listing` or else from each `labels.csv` beside or above the images.

    Raises:
        InputError: no listing, or none of the images in it.
    """
    listings = [Path(listing)] if listing else []
    if not listings:
        places = [place for root in roots for place in (Path(root), *list(Path(root).resolve().parents)[:2])]
        places += [file.parent for file in files[:1]]
        listings = list(dict.fromkeys(place / "labels.csv" for place in places if (place / "labels.csv").is_file()))
    if not listings:
        raise InputError("target=label needs labels; give labels=FILE.csv with the columns file and class_index")
    labels = {_real(file): index for found in listings for file, index in read_labels(found).items()}
    if not any(_real(file) in labels for file in files):
        raise InputError(f"labels={', '.join(map(str, listings))} names none of the {len(files)} images")
    return labels


class Mosaics:
    """2×2 mosaics of photographs; each explains the class of one of its cells.

    Args:
        files: the photographs, all readable.
        classes: their predicted classes.
        plan: see `ltx.metrics.mosaic.plan_mosaics`.
    """

    def __init__(
        self,
        files: Sequence[Path],
        classes: Sequence[int],
        plan: Sequence[Mosaic],
        size: tuple[int, int],
        batch_size: int,
    ) -> None:
        self.files = list(files)
        self.classes = list(classes)
        self.numbered = list(enumerate(plan))
        self.chunks = [self.numbered[i : i + batch_size] for i in range(0, len(plan), batch_size)]
        self.size = size

    def __len__(self) -> int:
        return len(self.chunks)

    def sizes(self) -> list[int]:
        return [len(chunk) for chunk in self.chunks]

    def photographs(self) -> Tensor:
        return torch.tensor([mosaic.photographs[mosaic.cell] for _, mosaic in self.numbered])

    def identity(self, chunk: int) -> list[object]:
        return [
            [number, mosaic.cell, [[str(self.files[i]), *_stamp(self.files[i])] for i in mosaic.photographs]]
            for number, mosaic in self.chunks[chunk]
        ]

    def load(self, chunk: int) -> Loaded:
        mosaics = [mosaic for _, mosaic in self.chunks[chunk]]
        wanted = [self.files[i] for mosaic in mosaics for i in mosaic.photographs]
        with ThreadPoolExecutor(default_workers()) as pool:
            pictures = list(pool.map(lambda file: resize(read_image(file), self.size), wanted))
        photographs = torch.stack(pictures).float().div_(255).unflatten(0, (len(mosaics), 4))
        chosen = [mosaic.photographs[mosaic.cell] for mosaic in mosaics]
        return Loaded(
            names=[
                f"mosaic {number:04d} ({self.files[i].name})"
                for (number, _), i in zip(self.chunks[chunk], chosen, strict=True)
            ],
            images=assemble(photographs),
            cells=torch.tensor([mosaic.cell for mosaic in mosaics]),
            classes=torch.tensor([self.classes[i] for i in chosen]),
        )
