"""Relevance maps of image files on disk, each with its target class, cropped and mirrored as the images are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.runtime.array_files import read_arrays
from ltx.runtime.atomic_files import atomic_write
from ltx.runtime.errors import InputError


class StoredMaps:
    """A folder with one map per image file.

    A map's file name is a hash of how the map was computed and of the image's content. If either changes, the map
    counts as missing; images that are moved or renamed keep theirs. Several collections may share a folder.

    Args:
        folder: folder of the maps.
        made_by: everything that determines a map besides its image, as text.
    """

    def __init__(self, folder: str | Path, made_by: str) -> None:
        self.folder, self.made_by = Path(folder), made_by

    def __contains__(self, image: str | Path) -> bool:
        try:
            return Path(image).is_file() and self._file(image).is_file()
        except OSError:  # whoever reads the image names it with the reason
            return False

    def write(self, image: str | Path, values: Tensor, target: int) -> None:
        """Store the map of an image.

        Args:
            image: the image file.
            values: the map, `[h, w]`; stored as float16.
            target: the target class.
        """
        file = self._file(image)
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, flushed=False) as stream:
            np.savez(stream, map=values.half().cpu().numpy(), target=np.int64(target))

    def lookup(
        self,
        images: Sequence[str | Path],
        boxes: Tensor | Sequence[Sequence[float]] | None = None,
        flips: Tensor | Sequence[bool] | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Read the maps of images, cropped and mirrored as the images were.

        Args:
            images: one file per row.
            boxes: `[B, 4]`, left, top, right, bottom as fractions of the upright image's width and height; None = the
                full image.
            flips: `[B]`, whether the crop was flipped left to right; None = no.
            size: height and width of the result; None = as stored.

        Returns:
            The maps, float32 `[B, 1, h, w]`, and the target classes, `[B]`, both on the CPU.

        Raises:
            InputError: the folder contains no map of one of the files.
        """
        values, targets = zip(*(self._read(image) for image in images), strict=True)
        stored, count = torch.stack(values).unsqueeze(1), len(values)
        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(count, 4) if boxes is None else torch.as_tensor(boxes).float()
        mirror = torch.zeros(count) if flips is None else torch.as_tensor(flips).float()
        left, top, right, bottom = box.cpu().unbind(1)
        # In the coordinates of affine_grid the image spans [-1, 1]. Scale and offset follow from the box's half-width
        # and centre; a mirrored crop is read from right to left.
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = (right - left) * (1 - 2 * mirror.cpu())
        theta[:, 1, 1] = bottom - top
        theta[:, 0, 2], theta[:, 1, 2] = left + right - 1, top + bottom - 1
        height, width = (size, size) if isinstance(size, int) else size or stored.shape[-2:]
        grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
        maps = F.grid_sample(stored, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return maps, torch.tensor(targets)

    def _read(self, image: str | Path) -> tuple[Tensor, int]:
        try:
            stored = read_arrays(self._file(image))
            return torch.from_numpy(stored["map"]).float(), int(stored["target"])
        except FileNotFoundError as error:
            raise InputError(f"{self.folder} contains no map of {image}; run the same command again") from error

    def _file(self, image: str | Path) -> Path:
        digest = hashlib.sha256(self.made_by.encode())
        with Path(image).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        return self.folder / f"{digest.hexdigest()[:32]}.npz"
