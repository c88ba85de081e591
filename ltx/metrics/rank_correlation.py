"""Spearman's rank correlation of two batches of maps, with average ranks for ties."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltx.runtime.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation `[B]` of maps `[B, 1, H, W]`, -1…1.

    Equal values share the mean of their ranks. Rectified maps contain many zeros, and ranking these by position would
    produce a spurious correlation. The correlation of two constant maps is defined as 1, and that of a constant and a
    non-constant map as 0.
    """
    a, b = (average_ranks(maps.flatten(1)) for maps in (first, second))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    spread = a.square().sum(1).sqrt() * b.square().sum(1).sqrt()
    flat_a, flat_b = (~ranks.any(1) for ranks in (a, b))
    correlation = (a * b).sum(1) / spread.clamp_min(1e-12)
    return torch.where(flat_a & flat_b, 1.0, torch.where(flat_a | flat_b, 0.0, correlation)).clamp(-1, 1)


def average_ranks(values: Tensor) -> Tensor:
    """Rank of each value within its row, float64 `[B, N]`, from 0; equal values share the mean of their ranks."""
    ordered = values.contiguous().sort(dim=1).values
    below = torch.searchsorted(ordered, values.contiguous(), right=False)
    upto = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + upto).double() / 2
