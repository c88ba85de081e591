"""Bootstrap intervals of scores and of differences between methods."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95
CELLS = 1 << 23  # values in one block of weights: 64 MiB


def weight_blocks(photographs: Tensor, resamples: int, seed: int) -> Iterator[Tensor]:
    """Yield bootstrap weights of the rows in blocks, float64 `[r, n]`, for `resamples` resamples in total.

    The bootstrap draws photographs, and each photograph brings all its rows, because several mosaics of one photograph
    are not independent (a cluster bootstrap; Davison and Hinkley, Bootstrap Methods and their Application, 1997,
    section 3.8). All methods and metrics use the same draws, so differences between methods are paired.

    Args:
        photographs: `[n]`, the index of the photograph of each row.
        resamples: number of resamples.
        seed: random seed.
    """
    random = np.random.default_rng(seed)
    distinct, place = photographs.unique(return_inverse=True)
    block = max(1, CELLS // max(1, len(photographs)))
    for start in range(0, resamples, block):
        shape = min(block, resamples - start), len(distinct)
        draws = torch.from_numpy(random.integers(len(distinct), size=shape))
        counts = torch.zeros(shape, dtype=torch.float64).scatter_add_(1, draws, torch.ones(shape, dtype=torch.float64))
        yield counts[:, place]


def interval(resampled: Tensor) -> tuple[float, float]:
    """The 95 % percentile interval of resampled scores `[R]`; NaN if none is finite."""
    finite = resampled[resampled.isfinite()]
    if not len(finite):
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = finite.quantile(torch.tensor([tail, 1 - tail], dtype=finite.dtype)).tolist()
    return low, high
