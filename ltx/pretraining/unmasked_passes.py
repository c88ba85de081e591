"""A disk cache of the classifier's forward passes over unmasked training crops, for later epochs."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ltx.classifier.feature_maps import Features
from ltx.classifier.identity import results_key
from ltx.explainers.mask_network import MaskNetwork
from ltx.runtime.errors import InputError


class UnmaskedPasses:
    """Logits of each crop, and the features of a shared trunk, computed on first use and stored by the crop's key.

    Values are stored in float32 in the memory layout of the classifier's outputs, so that a stored pass equals a
    computed one to the bit. Each row has a checksum over its values and the crop's pixels: a row that is incomplete, or
    that was computed from other pixels because the image files changed, is recomputed. The processes of a node may
    share a folder; each node should have its own.

    Args:
        folder: root of the cache. Each combination of classifier, precision, stages and crops has its own subfolder.
        explainer: its `predict_and_encode` is cached.
        rows: number of keys.
        crops: what, besides the classifier, determines a key's result (images, their order, cropping), as text.

    Raises:
        InputError: the arrays do not fit on the disk.
    """

    def __init__(self, folder: str | Path, explainer: MaskNetwork, rows: int, crops: str) -> None:
        self.explainer = explainer
        classifier = explainer.classifier
        key = [*results_key(classifier), rows, crops]
        # The last entry versions the meaning of `Features.final`; it is part of existing caches' keys.
        key += [explainer.stages, "what is written into class tokens"] if explainer.shares_trunk else [None]
        key += ["values"] if explainer.evidence_maps > 1 else []
        self.folder = Path(folder) / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        # Two images: the strides of a single row do not determine the memory layout.
        sample = classifier.blank(2)
        tensors = self._compute(sample)
        self._orders = [_memory_order(tensor) for tensor in tensors]
        shapes = [
            tuple(tensor.shape[axis] for axis in order[1:]) for tensor, order in zip(tensors, self._orders, strict=True)
        ]
        self.bytes = rows * sum(4 * int(np.prod(shape)) for shape in shapes)
        if not (self.folder / "sums.bin").exists():
            self._check_space()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._arrays = [
            _memory_map(self.folder / f"{index}.bin", "float32", (rows, *shape)) for index, shape in enumerate(shapes)
        ]
        self._checksums = _memory_map(self.folder / "sums.bin", "uint32", (rows,))
        generator = torch.Generator().manual_seed(0)
        # Below 2^31: the digests of images of up to 16 million values stay below 2^63.
        self._factors = torch.randint(2**31, sample.shape[1:], generator=generator)

    def __call__(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Features]:
        """The result of `explainer.predict_and_encode(images)`; only crops that are not stored pass the classifier.

        Args:
            images: `[B, 3, H, W]` in [0, 1], multiples of 1/255.
            keys: `[B]`, on the CPU; -1 = a crop that is never repeated and not stored.
        """
        indices = keys.numpy()
        rows = [array[np.maximum(indices, 0)] for array in self._arrays]
        digests = self._digests(images)
        stored = [
            index >= 0 and self._checksum(digests[row], rows, row) == self._checksums[index]
            for row, index in enumerate(indices.tolist())
        ]
        missing = np.flatnonzero(~np.asarray(stored, dtype=bool))
        if len(missing):
            selection = torch.from_numpy(missing).to(images.device)
            computed = self._compute(images[selection] if len(missing) < len(stored) else images)
            for values, tensor, order in zip(rows, computed, self._orders, strict=True):
                values[missing] = tensor.permute(order).cpu().numpy()
            for row in (row for row in missing.tolist() if indices[row] >= 0):
                for array, values in zip(self._arrays, rows, strict=True):
                    array[indices[row]] = values[row]
                self._checksums[indices[row]] = self._checksum(digests[row], rows, row)
        tensors = [
            torch.from_numpy(values).to(images.device).permute(tuple(np.argsort(order)))
            for values, order in zip(rows, self._orders, strict=True)
        ]
        logits, features = tensors[0], tensors[1:]
        if self.explainer.shares_trunk:
            count = len(features) - self.explainer.evidence_maps
            return logits, Features(features[:count], features[count], tuple(features[count + 1 :]))
        return logits, self.explainer.encode(images)

    @torch.no_grad()
    def _compute(self, images: Tensor) -> list[Tensor]:
        if not self.explainer.shares_trunk:
            return [self.explainer.classifier(images)]
        logits, features = self.explainer.predict_and_encode(images)
        return [logits, *features.stages, features.final, *features.values]

    def _digests(self, images: Tensor) -> list[int]:
        """32-bit digests: random weighted sums of the pixels, computed on the device (8 bytes an image leave it)."""
        self._factors = self._factors.to(images.device)
        pixels = (images * 255).round_().to(torch.int64)
        digests: list[int] = (pixels.mul_(self._factors).sum((1, 2, 3)) % 2**32).tolist()
        return digests

    def _checksum(self, digest: int, rows: list[np.ndarray], row: int) -> int:
        """CRC-32 of a row's values and its pixel digest; never 0, which marks a row that was not written."""
        checksum = digest
        for values in rows:
            checksum = zlib.crc32(values[row].tobytes(), checksum)
        return checksum or 1

    def _check_space(self) -> None:
        existing = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        if self.bytes > free:
            raise InputError(
                f"data.cache={self.folder.parent} needs {self.bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
                "use fewer data.crops, another disk, or no cache"
            )


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    """The axes from the slowest to the fastest in memory; the batch axis is first."""
    strides = tensor.stride()
    rest = sorted(range(1, tensor.ndim), key=lambda axis: (-strides[axis], axis))
    return (0, *rest)


def _memory_map(file: Path, dtype: str, shape: tuple[int, ...]) -> np.memmap:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with file.open("ab") as stream:
        stream.truncate(size)  # a sparse file: rows that are not written take no space
    return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
