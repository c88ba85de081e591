"""Neighbouring places of the mask should agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ltx.config import option
from ltx.objectives.terms import MaskedBatch


@dataclass
class Smoothness:
    """Total variation of the mask on its own grid: mean of |m(p) - m(q)|^power over neighbours p, q."""

    weight: Any = option(0.1, help="weight, or [[progress, weight], …]")
    power: float = option(2.0, help="1 = anisotropic total variation; 2 punishes steep edges more than long ones")

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        return {}

    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        mask = batch.scores.float().sigmoid()
        across = (mask[..., :, 1:] - mask[..., :, :-1]).abs().pow(self.power).mean((1, 2, 3))
        down = (mask[..., 1:, :] - mask[..., :-1, :]).abs().pow(self.power).mean((1, 2, 3))
        return across + down
