"""The area term: a penalty on how much of the image the mask keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import option
from ltx.config.schedules import has_schedules
from ltx.objectives.terms import checks_logits
from ltx.runtime.errors import InputError
from ltx.runtime.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


@dataclass
class Area:
    """Penalty on the mask at image resolution, averaged over its pixels (`released`: on the network's own grid).

    The kinds are:

    - `l1`: m.
    - `bce`: -log(1 - m), the binary cross-entropy towards an empty mask.
    - `released`: log(1 + e^m), as in the released LTX code: the cross-entropy with logits, applied to a mask that has
      already passed through a sigmoid. Its minimum is log 2, its slope 0.5 to 0.73. It is averaged over the mask before
      upsampling (14 x 14 tokens of a ViT); for masks that take areas or are restricted to some pixels, over the pixels.
    - `entropy`: the binary entropy, which makes masks crisp and does not depend on their size.
    - `band`: the distance of the mean from [low, high].
    - `sorted`: |sort(m) - r_a|², with `r_a` one on the top share `target` of the pixels and zero elsewhere (extremal
      perturbations, Fong et al. 2019). For networks that take areas, the requested area replaces `target`.
    """

    only_in_training: ClassVar[bool] = False
    turn: ClassVar[str | None] = None
    weight: Any = option(4.0, help="weight", scheduled=(0, math.inf))
    kind: str = option("l1", help="kind of penalty", choices=["l1", "bce", "released", "entropy", "band", "sorted"])
    low: Any = option(0.05, help="band: lower end of the mean without penalty", scheduled=(0, 1))
    high: Any = option(0.35, help="band: upper end of the mean without penalty", scheduled=(0, 1))
    target: Any = option(
        0.2, help="sorted: share of the image to keep, for networks that take no areas", scheduled=(0, 1)
    )

    def __post_init__(self) -> None:
        if has_schedules(self):
            return  # `ObjectiveConfig` checks the values at each point of the schedules
        if not 0 <= self.low <= self.high <= 1:
            raise InputError(f"objective.area: low={self.low}, high={self.high}; need 0 <= low <= high <= 1")
        if not 0 < self.target < 1:
            raise InputError(f"objective.area.target={self.target}; give a share between 0 and 1")

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        return {}

    @checks_logits
    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        mask = batch.mask.flatten(1).float()
        if self.kind == "l1":
            return mask.mean(1)
        if self.kind == "released":
            if batch.areas is None and batch.allowed is None:
                mask = batch.scores.flatten(1).float().sigmoid()
            return torch.log1p(mask.exp()).mean(1)
        if self.kind == "band":
            mean = mask.mean(1)
            outside: Tensor = (mean - self.high).relu() + (self.low - mean).relu()
            return outside
        if self.kind == "sorted":
            target = mask.new_tensor(self.target) if batch.areas is None else batch.areas[:, None]
            positions = torch.arange(mask.shape[1], device=mask.device)
            step = (positions >= ((1 - target) * mask.shape[1]).round()).to(mask)
            return (mask.sort(1).values - step).square().mean(1)
        mask = mask.clamp(1e-6, 1 - 1e-6)
        if self.kind == "bce":
            return -torch.log1p(-mask).mean(1)
        return -(mask * mask.log() + (1 - mask) * torch.log1p(-mask)).mean(1)
