"""Teacher maps: a method's maps of a set of files, computed once, kept on disk, and cut like the training crops."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.attribution import METHODS, attribute, check_options
from ltx.classifier import Classifier, Target
from ltx.data.images import ImageBatches
from ltx.errors import InputError


class TeacherMaps:
    """A cache of one method's maps for one classifier.

    Every map lies in its own file, named by a hash of the classifier's fingerprint, the method with its options, the
    target, and the image file's content: whatever of these changes, the map is made again, and files that are moved
    or named otherwise keep theirs. Maps are stored min–max stretched, float16, at `resolution`.

    Args:
        folder: where the maps are kept; made where there is none. Several caches may share it.
        classifier: the explained model; the whole picture is squashed to its input size.
        method: a name of `ltx.attribution.METHODS`.
        target: `predicted` = the class predicted for the whole picture, or a class for all.
        resolution: height and width of the stored maps; a ViT's map has 14 x 14 values of its own.
        options: of the method.

    Raises:
        InputError: an unknown method or option.
    """

    def __init__(
        self,
        folder: str | Path,
        classifier: Classifier,
        method: str = "iia2",
        target: Target = "predicted",
        resolution: int = 56,
        **options: Any,
    ) -> None:
        known = check_options(method, options)
        self.folder, self.classifier, self.method, self.target = Path(folder), classifier, method, target
        self.resolution, self.options = resolution, options
        settings = {key: value for key, value in (known | options).items() if key != "max_batch"}
        made_by = [classifier.fingerprint(), list(classifier.input_size), METHODS[method].title, settings]
        self._made_by = json.dumps([*made_by, str(target), resolution], sort_keys=True, default=str)
        self._files: dict[tuple[str, int, int], Path] = {}

    def precompute(self, paths: Sequence[str | Path], batch_size: int = 16, max_batch: int = 64) -> int:
        """Make the maps of these files that the cache does not hold; each is written as soon as it is there.

        Files that cannot be read are left out: `lookup` names them.

        Returns:
            How many maps were made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [Path(path) for path in dict.fromkeys(map(str, paths)) if not self._is_there(Path(path))]
        made = 0
        for names, images in ImageBatches(missing, self.classifier.input_size, batch_size) if missing else ():
            maps = attribute(
                self.method,
                self.classifier,
                images.to(self.classifier.device),
                self.target,
                max_batch=max_batch,
                **self.options,
            )
            stored = F.interpolate(maps, size=(self.resolution, self.resolution), mode="area")
            low, high = stored.amin((2, 3), keepdim=True), stored.amax((2, 3), keepdim=True)
            stored = (stored - low) / (high - low).clamp_min(torch.finfo(stored.dtype).tiny)
            for name, values in zip(names, stored[:, 0].half().cpu().numpy(), strict=True):
                file = self._file(name)
                beside = file.with_name(f"{file.name}.{os.getpid()}.part")
                with beside.open("wb") as stream:
                    np.save(stream, values)
                os.replace(beside, file)
                made += 1
        return made

    def lookup(
        self,
        paths: Sequence[str | Path],
        boxes: Tensor | Sequence[Sequence[float]] | None = None,
        flips: Tensor | Sequence[bool] | None = None,
        size: int | tuple[int, int] = 224,
    ) -> Tensor:
        """The maps of these files, cut and mirrored as the images were.

        Args:
            paths: one file for each row.
            boxes: `[B, 4]`, left, top, right, bottom as shares of the upright picture's width and height; None = all
                of it.
            flips: `[B]`, whether the crop was mirrored left to right; None = no.
            size: height and width of the result.

        Returns:
            `[B, 1, h, w]`, float32 in [0, 1], on the CPU.

        Raises:
            InputError: the cache holds no map of one of the files.
        """
        stored = torch.stack([self._read(Path(path)) for path in paths]).unsqueeze(1)
        count = len(paths)
        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(count, 4) if boxes is None else torch.as_tensor(boxes).float()
        mirror = torch.zeros(count) if flips is None else torch.as_tensor(flips).float()
        left, top, right, bottom = box.cpu().unbind(1)
        # In affine_grid's coordinates the picture spans [-1, 1]: centre and half-width of the box; a mirrored crop is
        # read from right to left.
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = (right - left) * (1 - 2 * mirror.cpu())
        theta[:, 1, 1] = bottom - top
        theta[:, 0, 2], theta[:, 1, 2] = left + right - 1, top + bottom - 1
        height, width = (size, size) if isinstance(size, int) else size
        grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
        return F.grid_sample(stored, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def __contains__(self, path: str | Path) -> bool:
        return self._is_there(Path(path))

    def missing(self, paths: Sequence[str | Path]) -> Iterator[Path]:
        """The files that the cache holds no map of."""
        return (Path(path) for path in paths if not self._is_there(Path(path)))

    def _is_there(self, path: Path) -> bool:
        return path.is_file() and self._file(path).is_file()

    def _read(self, path: Path) -> Tensor:
        if not self._is_there(path):
            raise InputError(f"{self.folder} holds no {self.method} map of {path}; call precompute for it first")
        return torch.from_numpy(np.load(self._file(path))).float()

    def _file(self, path: Path) -> Path:
        state = path.stat()
        key = (str(path), state.st_size, state.st_mtime_ns)
        if key not in self._files:
            digest = hashlib.sha256(self._made_by.encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
            self._files[key] = self.folder / f"{digest.hexdigest()[:32]}.npy"
        return self._files[key]
