"""Bootstrap intervals: how far a score, or the difference of two methods, would move with other images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95
CELLS = 1 << 23  # numbers in one block of weights: 64 MiB


def weight_blocks(images: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """How often each image is drawn, float64 `[r, images]`, in blocks that together hold all resamples.

    Every method and metric uses the same draws, so differences between methods are paired.
    """
    random = np.random.default_rng(seed)
    block = max(1, CELLS // max(1, images))
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = torch.from_numpy(random.integers(images, size=(count, images)))
        yield torch.zeros(count, images, dtype=torch.float64).scatter_add_(
            1, drawn, torch.ones(count, images, dtype=torch.float64)
        )


def interval(resampled: Tensor) -> tuple[float, float]:
    """The percentile interval of the resampled scores `[R]`; NaN where there are none."""
    finite = resampled[resampled.isfinite()]
    if not len(finite):
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = finite.quantile(torch.tensor([tail, 1 - tail], dtype=finite.dtype)).tolist()
    return low, high
