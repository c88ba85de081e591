"""Bootstrap intervals: how far a score, or the difference of two methods, would move with other images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95
CELLS = 1 << 23  # numbers in one block of weights: 64 MiB


def weight_blocks(photographs: Tensor, resamples: int, seed: int) -> Iterator[Tensor]:
    """How often each row counts, float64 `[r, n]`, in blocks that together hold all resamples.

    Photographs are drawn, and with one all rows about it: the same photograph in several mosaics is no new evidence
    (a cluster bootstrap, Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). Every method
    and metric uses the same draws, so differences between methods are paired.

    Args:
        photographs: `[n]`, equal numbers for rows about the same one.
    """
    random = np.random.default_rng(seed)
    different, place = photographs.unique(return_inverse=True)
    block = max(1, CELLS // max(1, len(photographs)))
    for start in range(0, resamples, block):
        shape = min(block, resamples - start), len(different)
        drawn = torch.from_numpy(random.integers(len(different), size=shape))
        times = torch.zeros(shape, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(shape, dtype=torch.float64))
        yield times[:, place]


def interval(resampled: Tensor) -> tuple[float, float]:
    """The percentile interval of the resampled scores `[R]`; NaN where there are none."""
    finite = resampled[resampled.isfinite()]
    if not len(finite):
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = finite.quantile(torch.tensor([tail, 1 - tail], dtype=finite.dtype)).tolist()
    return low, high
