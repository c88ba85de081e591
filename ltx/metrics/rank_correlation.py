"""Spearman's rank correlation of two batches of maps, with average ranks for ties."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltx.runtime.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation `[B]` of maps `[B, 1, H, W]`, -1…1.

    Rectified maps are full of equal zeros, which share the mean of their ranks: ranks by position would correlate where
    the maps say nothing. Written rule: of two constant maps it is 1, of a constant one and another 0.
    """
    a, b = (average_ranks(maps.flatten(1)) for maps in (first, second))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    spread = a.square().sum(1).sqrt() * b.square().sum(1).sqrt()
    flat_a, flat_b = (~ranks.any(1) for ranks in (a, b))
    found = (a * b).sum(1) / spread.clamp_min(1e-12)
    return torch.where(flat_a & flat_b, 1.0, torch.where(flat_a | flat_b, 0.0, found)).clamp(-1, 1)


def average_ranks(values: Tensor) -> Tensor:
    """How many of a row's values lie below each, float64 `[B, N]`; equal ones share the mean of their ranks."""
    ordered = values.contiguous().sort(dim=1).values
    below = torch.searchsorted(ordered, values.contiguous(), right=False)
    upto = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + upto).double() / 2
