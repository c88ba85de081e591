"""Samples of an evaluation: photographs or mosaics, in chunks that do not depend on how ranks divide the work."""

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

from ltx.data.finding import image_root
from ltx.data.image_batches import default_workers
from ltx.data.listings import has_labels, labels_of
from ltx.data.reading import opened, oriented_size, read_resized
from ltx.metrics.mosaic import Mosaic, assemble
from ltx.runtime.errors import InputError

TOLERANCE = 15  # pixels of the original picture, as in the paper of the pointing game
LOSSY = (".jpg", ".jpeg")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", *LOSSY)


@dataclass
class Loaded:
    """A chunk on the CPU.

    Attributes:
        names: one name for each image.
        images: `[B, 3, H, W]` in [0, 1]; B may be 0.
        labels: class indices, or None without a listing.
        objects, near_objects: bool `[B, 1, H, W]`, or None without masks.
        cells: `[B]` for mosaics, otherwise None.
        classes: target classes `[B]` if the samples determine them (mosaics), otherwise None.
        skipped: files that were skipped, with the reason.
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
    """Images to explain, in numbered chunks."""

    def __len__(self) -> int:
        """Number of chunks."""

    def load(self, chunk: int) -> Loaded:
        """Read a chunk."""

    def identity(self, chunk: int) -> list[object]:
        """Values that identify the content of a chunk, without reading it."""

    def sizes(self) -> list[int]:
        """Number of images in each chunk, including unreadable ones."""

    def photographs(self) -> Tensor | None:
        """Index of the photograph of each sample `[n]`; None = every sample has its own photograph."""


class Photographs:
    """Image files, optionally with labels and object masks.

    Args:
        files: files as returned by `find_images`.
        size: height and width of the classifier's input. Pictures are resized to it without cropping.
        batch_size: number of images in a chunk.
        labels: class index by file, see `find_labels`; None = not needed.
        masks: folder of object masks, `NAME.png` for the image `NAME.jpg`. Non-zero pixels (in a JPEG: above 127) are
            the object.
    """

    def __init__(
        self,
        files: Sequence[Path],
        size: tuple[int, int],
        batch_size: int,
        labels: dict[Path, int] | None = None,
        masks: Path | None = None,
        channels: int = 3,
    ) -> None:
        self.channels = channels
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
        values: list[object] = [[str(file), *_stamp(file)] for file in self.chunks[chunk]]
        if self.masks is not None:
            masks = [find_mask(self.masks, file) for file in self.chunks[chunk]]
            values.append([TOLERANCE, *[[str(mask), *_stamp(mask)] for mask in masks if mask is not None]])
        if self.labels is not None:
            values.append([self.labels.get(file) for file in self.chunks[chunk]])
        return values

    def load(self, chunk: int) -> Loaded:
        files = self.chunks[chunk]
        with ThreadPoolExecutor(default_workers()) as pool:
            parts = list(pool.map(self._read, files))
        good = [(file, part) for file, part in zip(files, parts, strict=True) if not isinstance(part, str)]
        skipped = [(str(file), part) for file, part in zip(files, parts, strict=True) if isinstance(part, str)]
        images = torch.stack([part[0] for _, part in good]) if good else torch.empty(0, self.channels, *self.size)
        objects = [torch.stack([part[1][i] for _, part in good]) for i in (0, 1)] if self.masks and good else None
        return Loaded(
            names=[str(file) for file, _ in good],
            images=images,
            labels=[self.labels[file] for file, _ in good] if self.labels is not None else None,
            objects=objects[0] if objects else None,
            near_objects=objects[1] if objects else None,
            skipped=skipped,
        )

    def _read(self, file: Path) -> tuple[Tensor, Tensor] | str:
        """Read an image and its stacked masks `[2, 1, H, W]`, or return the reason why the file is skipped."""
        if self.labels is not None and file not in self.labels:
            return f"{file} has no label in the listing"
        try:
            image = read_resized(file, self.size, channels=self.channels).float().div_(255)
            if self.masks is None:
                return image, torch.empty(0)
            mask = find_mask(self.masks, file)
            if mask is None:
                return f"{file} has no mask in {self.masks}"
            with opened(file, channels=self.channels) as picture:
                size = oriented_size(picture)
            return image, torch.stack(read_masks(mask, size, self.size))
        except InputError as error:
            return str(error)


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return (0, 0, 0)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns  # ctime changes with permissions


def _real(file: Path) -> Path:
    return Path(os.path.realpath(file))


def find_mask(folder: Path, image: Path) -> Path | None:
    """Find the mask with the name of an image; None if there is none.

    The sub-folder of `folder` with the name of the image's own folder is searched first, then `folder`. For an image
    that is itself one of the masks, the image is returned.
    """
    for parent in (folder / image.parent.name, folder):
        for suffix in MASK_SUFFIXES:
            mask = parent / (image.stem + suffix)
            if mask.is_file():
                return image if mask.resolve() == image.resolve() else mask
    return None


def read_masks(file: Path, picture: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Read an object mask, and the mask enlarged by the tolerance of the pointing game, bool `[1, H, W]` each.

    A pixel of the enlarged mask is true if its centre, mapped to the original picture, is within 15 px of the object.

    Args:
        file: the mask.
        picture: width and height of the picture that it belongs to.
        size: height and width of the result.

    Raises:
        InputError: an unreadable mask, a mask without an object (at either size), or one with another size than its
            picture.
    """
    # JPEG compression changes values next to edges, so that background is not exactly 0.
    threshold = 127 if file.suffix.lower() in LOSSY else 0
    with opened(file) as stored:
        mask = np.asarray(stored.convert("L")) > threshold
    if mask.shape[::-1] != picture:
        raise InputError(f"{file} is {mask.shape[1]}x{mask.shape[0]}, but its picture is {picture[0]}x{picture[1]}")
    if not mask.any():
        raise InputError(f"{file} marks no object")
    height, width = size
    shrunk = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    if not shrunk.getbbox():
        raise InputError(f"{file} marks an object that vanishes at {width}x{height}")
    near = distance_transform_edt(~mask)[rows][:, columns] <= TOLERANCE
    return torch.from_numpy(np.array(shrunk) > 0)[None], torch.from_numpy(near)[None]


def find_labels(files: Sequence[Path], listing: str | None, roots: Sequence[str]) -> dict[Path, int]:
    """Read the class index of each file that is listed.

    Args:
        files: the images.
        listing: a `.csv` file; None = use each `labels.csv` with class indices in the folders of the images, in those
            above them up to the folder that contains all images of a root, and in two folders above that. The nearest
            one above a file wins; one elsewhere counts if none of these lists the file.
        roots: the settings from which the images were found, see `ltx.data.finding.find_images`.

    Raises:
        InputError: no listing, one without class indices, or listings that contain none of the images.
    """
    listings = [Path(listing)] if listing else _listings(files, roots)
    if not listings:
        raise InputError("target=label needs labels; give labels=FILE.csv with the columns file and class_index")
    labels = labels_of(files, listings)
    return {file: label for file, label in zip(files, labels, strict=True) if label is not None}


def _listings(files: Sequence[Path], roots: Sequence[str]) -> list[Path]:
    """Each `labels.csv` that may list the files, without those of other tools; the deeper a folder, the later."""
    tops = {image_root(root) for root in roots}
    tops |= {_real(top) for top in tops}
    places = {place for top in tops for place in (top, *list(top.parents)[:2])}
    for folder in {Path(os.path.abspath(file)).parent for file in files}:
        chain = (folder, *folder.parents)
        places.update(chain[: max((n for n, place in enumerate(chain) if place in tops), default=0) + 1])
    listings = [place / "labels.csv" for place in sorted(places, key=lambda place: (len(place.parts), place))]
    listings = [listing for listing in listings if listing.is_file()]
    # If there is no other, reading one without class indices says so.
    return [listing for listing in listings if has_labels(listing)] or listings


class Mosaics:
    """2×2 mosaics of photographs; the target of each mosaic is the class of one of its cells.

    Args:
        files: the photographs, all readable.
        classes: predicted class of each photograph.
        plan: mosaics drawn by `ltx.metrics.mosaic.plan_mosaics`.
        size: height and width of the classifier's input.
        batch_size: number of mosaics in a chunk.
    """

    def __init__(
        self,
        files: Sequence[Path],
        classes: Sequence[int],
        plan: Sequence[Mosaic],
        size: tuple[int, int],
        batch_size: int,
        channels: int = 3,
    ) -> None:
        self.channels = channels
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
        files = [self.files[i] for mosaic in mosaics for i in mosaic.photographs]
        with ThreadPoolExecutor(default_workers()) as pool:
            pictures = list(pool.map(lambda file: read_resized(file, self.size, channels=self.channels), files))
        photographs = torch.stack(pictures).float().div_(255).unflatten(0, (len(mosaics), 4))
        explained = [mosaic.photographs[mosaic.cell] for mosaic in mosaics]
        return Loaded(
            names=[
                f"mosaic {number:04d} ({self.files[i].name})"
                for (number, _), i in zip(self.chunks[chunk], explained, strict=True)
            ],
            images=assemble(photographs),
            cells=torch.tensor([mosaic.cell for mosaic in mosaics]),
            classes=torch.tensor([self.classes[i] for i in explained]),
        )
