"""Maps of image files on disk, each beside the class that it explains, cut and mirrored as the images are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.runtime.atomic_files import beside
from ltx.runtime.errors import InputError


class StoredMaps:
    """A folder with one map for each image file.

    A map's file is named by a hash of how it was made and of the image's content: whatever of these changes, there is
    no map yet, and images that are moved or named otherwise keep theirs. Several collections may share a folder.

    Args:
        folder: where the maps are.
        made_by: what determines a map besides its image, as text.
    """

    def __init__(self, folder: str | Path, made_by: str) -> None:
        self.folder, self.made_by = Path(folder), made_by

    def __contains__(self, image: str | Path) -> bool:
        return Path(image).is_file() and self._file(image).is_file()

    def write(self, image: str | Path, values: Tensor, target: int) -> None:
        """Keep the map `values` `[h, w]` of an image, as float16, and the class that it explains."""
        file = self._file(image)
        self.folder.mkdir(parents=True, exist_ok=True)
        with beside(file, flushed=False) as stream:
            np.savez(stream, map=values.half().cpu().numpy(), target=np.int64(target))

    def lookup(
        self,
        images: Sequence[str | Path],
        boxes: Tensor | Sequence[Sequence[float]] | None = None,
        flips: Tensor | Sequence[bool] | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The maps of these images, cut and mirrored as the images were.

        Args:
            images: one file for each row.
            boxes: `[B, 4]`, left, top, right, bottom as shares of the upright picture's width and height; None = all
                of it.
            flips: `[B]`, whether the crop was mirrored left to right; None = no.
            size: height and width of the result; None = as stored.

        Returns:
            The maps, `[B, 1, h, w]` float32, and the classes that they explain, `[B]`, both on the CPU.

        Raises:
            InputError: the folder holds no map of one of the files.
        """
        values, targets = zip(*(self._read(image) for image in images), strict=True)
        stored, count = torch.stack(values).unsqueeze(1), len(values)
        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(count, 4) if boxes is None else torch.as_tensor(boxes).float()
        mirror = torch.zeros(count) if flips is None else torch.as_tensor(flips).float()
        left, top, right, bottom = box.cpu().unbind(1)
        # In affine_grid's coordinates the picture spans [-1, 1]: centre and half-width of the box; a mirrored crop is
        # read from right to left.
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = (right - left) * (1 - 2 * mirror.cpu())
        theta[:, 1, 1] = bottom - top
        theta[:, 0, 2], theta[:, 1, 2] = left + right - 1, top + bottom - 1
        height, width = (size, size) if isinstance(size, int) else size or stored.shape[-2:]
        grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
        cut = F.grid_sample(stored, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return cut, torch.tensor(targets)

    def _read(self, image: str | Path) -> tuple[Tensor, int]:
        try:
            with np.load(self._file(image)) as stored:
                return torch.from_numpy(stored["map"]).float(), int(stored["target"])
        except FileNotFoundError as error:
            raise InputError(f"{self.folder} holds no map of {image}; the same command again makes it") from error

    def _file(self, image: str | Path) -> Path:
        digest = hashlib.sha256(self.made_by.encode())
        with Path(image).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        return self.folder / f"{digest.hexdigest()[:32]}.npz"
