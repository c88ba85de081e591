"""The kept pixels should lie together: one object of several, not a part of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltx.config import option
from ltx.objectives.terms import MaskedBatch


@dataclass
class Compactness:
    """How far the mask is spread, beside a disc of its own area: `log(2π v / A)`, 0 for a disc, in any unit of length.

    `A = Σ m` is the mask's area and `v = Σ m |p - c|² / A` the mean square distance of what it keeps to its centre,
    `A / 2π` for a disc. An ellipse three times as long as wide has 0.5, two discs ten radii apart 3.2.
    """

    weight: Any = option(0.0, help="weight, or [[progress, weight], …]")

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        return {}

    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        mask = batch.mask.squeeze(1)
        area = mask.sum((1, 2)).clamp_min(1e-6)
        variance = torch.zeros_like(area)
        for axis in (1, 2):
            line = mask.sum(3 - axis) / area[:, None]
            place = torch.arange(line.shape[1], device=line.device, dtype=line.dtype)
            centre = (line * place).sum(1, keepdim=True)
            variance = variance + (line * (place - centre).square()).sum(1)
        return (2 * math.pi * variance.clamp_min(1e-6) / area).log()
