"""The smoothness term: neighbouring mask values agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import check_ranges, option
from ltx.config.schedules import has_schedules
from ltx.objectives.terms import checks_logits
from ltx.runtime.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


@dataclass
class Smoothness:
    """Total variation of the mask on its own grid: mean of |m(p) - m(q)|^power over neighbours p, q.

    The mask is the sigmoid of the scores, for networks that take areas too.
    """

    only_in_training: ClassVar[bool] = False
    turn: ClassVar[str | None] = None
    weight: Any = option(0.1, help="weight", scheduled=(0, math.inf))
    power: Any = option(
        2.0,
        help="1 = anisotropic total variation; 2 penalises steep edges more than long ones",
        scheduled=(0, math.inf),
    )

    def __post_init__(self) -> None:
        if has_schedules(self):
            return  # `ObjectiveConfig` checks the values at each point of the schedules
        check_ranges("objective.smoothness.", self, power=(1, math.inf))  # below 1, equal neighbours have no gradient

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        return {}

    @checks_logits
    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        mask = batch.scores.float().sigmoid()
        across, down = mask.diff(dim=3), mask.diff(dim=2)
        steps = [step.abs().pow(self.power).mean((1, 2, 3)) for step in (across, down) if step.shape[2:].numel()]
        return torch.stack(steps).sum(0) if steps else torch.zeros_like(mask[:, 0, 0, 0])
