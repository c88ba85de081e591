"""The classifier's passes over the unmasked training crops, kept on disk for the epochs to come."""

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
from ltx.explainers.mask_network import MaskNetwork
from ltx.runtime.errors import InputError


class UnmaskedPasses:
    """Logits of each crop, and the features of a shared trunk, by the crop's key; made when first asked for.

    They are kept in float32 in the memory order that the classifier gives them, so what is read has the bytes of what
    was computed. Each row has a checksum, of the crop's pixels too: one that is not whole, or is of other pixels
    because the images changed where they lie, is computed anew. The processes of a node may share a folder; nodes
    should have one each.

    Args:
        folder: of the arrays, in a folder of their own for each classifier, precision, choice of features and crops.
        explainer: whose `predict_and_encode` it stands for.
        rows: number of keys.
        crops: what a key determines besides the classifier: images, order and cropping, as text.

    Raises:
        InputError: the arrays would not fit on the disk.
    """

    def __init__(self, folder: str | Path, explainer: MaskNetwork, rows: int, crops: str) -> None:
        self.explainer = explainer
        classifier = explainer.classifier
        made_by = [classifier.fingerprint(), classifier.precision, list(classifier.input_size), rows, crops]
        made_by += [explainer.stages, "what is written into class tokens"] if explainer.shares_trunk else [None]
        self.folder = Path(folder) / hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
        like = torch.zeros(2, 3, *classifier.input_size, device=classifier.device)  # of one row, strides say too little
        tensors = self._pass(like)
        self._orders = [_memory_order(tensor) for tensor in tensors]
        shapes = [
            tuple(tensor.shape[axis] for axis in order[1:]) for tensor, order in zip(tensors, self._orders, strict=True)
        ]
        self.bytes = rows * sum(4 * int(np.prod(shape)) for shape in shapes)
        if not (self.folder / "sums.bin").exists():
            self._check_space()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._arrays = [
            _mapped(self.folder / f"{index}.bin", "float32", (rows, *shape)) for index, shape in enumerate(shapes)
        ]
        self._sums = _mapped(self.folder / "sums.bin", "uint32", (rows,))
        drawn = torch.Generator().manual_seed(0)
        # Below 2^31: the digests of pictures of up to 16 million values stay below 2^63.
        self._factors = torch.randint(2**31, like.shape[1:], generator=drawn)

    def __call__(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Features]:
        """What `explainer.predict_and_encode(images)` gives; only crops that are not kept pass the classifier.

        Args:
            images: `[B, 3, H, W]` in [0, 1], 255ths.
            keys: `[B]`, on the CPU; -1 = no crop that will come again.
        """
        places = keys.numpy()
        rows = [array[np.maximum(places, 0)] for array in self._arrays]
        digests = self._digests(images)
        kept = [
            place >= 0 and self._sum(digests[at], rows, at) == self._sums[place]
            for at, place in enumerate(places.tolist())
        ]
        missing = np.flatnonzero(~np.asarray(kept, dtype=bool))
        if len(missing):
            at = torch.from_numpy(missing).to(images.device)
            made = self._pass(images[at] if len(missing) < len(kept) else images)
            for row, tensor, order in zip(rows, made, self._orders, strict=True):
                row[missing] = tensor.permute(order).cpu().numpy()
            for place in (place for place in missing.tolist() if places[place] >= 0):
                for array, row in zip(self._arrays, rows, strict=True):
                    array[places[place]] = row[place]
                self._sums[places[place]] = self._sum(digests[place], rows, place)
        found = [
            torch.from_numpy(row).to(images.device).permute(tuple(np.argsort(order)))
            for row, order in zip(rows, self._orders, strict=True)
        ]
        logits, features = found[0], found[1:]
        if self.explainer.shares_trunk:
            return logits, Features(features[:-1], features[-1])
        return logits, self.explainer.encode(images)

    @torch.no_grad()
    def _pass(self, images: Tensor) -> list[Tensor]:
        if not self.explainer.shares_trunk:
            return [self.explainer.classifier(images)]
        logits, features = self.explainer.predict_and_encode(images)
        return [logits, *features.stages, features.final]

    def _digests(self, images: Tensor) -> list[int]:
        """32 bits of each image's pixels, summed with random factors where they are: 8 bytes an image leave a GPU."""
        self._factors = self._factors.to(images.device)
        pixels = (images * 255).round_().to(torch.int64)
        return (pixels.mul_(self._factors).sum((1, 2, 3)) % 2**32).tolist()  # type: ignore[no-any-return]

    def _sum(self, digest: int, rows: list[np.ndarray], at: int) -> int:
        total = digest
        for row in rows:
            total = zlib.crc32(row[at].tobytes(), total)
        return total or 1

    def _check_space(self) -> None:
        place = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
        free = shutil.disk_usage(place).free
        if self.bytes > free:
            raise InputError(
                f"data.cache={self.folder.parent} needs {self.bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
                "use fewer data.crops, another disk, or no cache"
            )


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    """The axes from the slowest to the fastest in memory; the first is the batch."""
    strides = tensor.stride()
    rest = sorted(range(1, tensor.ndim), key=lambda axis: (-strides[axis], axis))
    return (0, *rest)


def _mapped(file: Path, kind: str, shape: tuple[int, ...]) -> np.memmap:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    with file.open("ab") as stream:
        stream.truncate(size)  # of the same size for every process; what is not written yet takes no room
    return np.memmap(file, dtype=kind, mode="r+", shape=shape)
