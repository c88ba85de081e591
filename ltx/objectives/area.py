"""How much of the image the mask may keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import option
from ltx.runtime.errors import InputError
from ltx.runtime.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


@dataclass
class Area:
    """A penalty on the visible mask, mean over its pixels.

    `l1` = m. `bce` = -log(1 - m), binary cross-entropy towards an empty mask. `released` = log(1 + e^m), what the
    released LTX code computes: cross-entropy with logits of a mask that went through a sigmoid already (floor log 2,
    slope 0.5 to 0.73). `entropy` = binary entropy, which makes masks crisp and says nothing of their size. `band` = the
    distance of the mean from [low, high]. `sorted` = |sort(m) - r_a|² with `r_a` one on the top share `target` of the
    pixels and zero elsewhere (extremal perturbations, Fong et al. 2019); a network that takes areas is held to the one
    it was asked for.
    """

    only_in_training: ClassVar[bool] = False
    weight: Any = option(4.0, help="weight, or [[progress, weight], …]")
    kind: str = option("l1", help="the penalty", choices=["l1", "bce", "released", "entropy", "band", "sorted"])
    low: float = option(0.05, help="band: no penalty from this mean on")
    high: float = option(0.35, help="band: no penalty up to this mean")
    target: float = option(0.2, help="sorted: the share of the image that is kept, if the network takes none")

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise InputError(f"objective.area: low={self.low}, high={self.high}; need 0 <= low <= high <= 1")
        if not 0 < self.target < 1:
            raise InputError(f"objective.area.target={self.target}; need a share between 0 and 1")

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        return {}

    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        mask = batch.mask.flatten(1).float()
        if self.kind == "l1":
            return mask.mean(1)
        if self.kind == "released":
            return torch.log1p(mask.exp()).mean(1)
        if self.kind == "band":
            mean = mask.mean(1)
            return (mean - self.high).relu() + (self.low - mean).relu()
        if self.kind == "sorted":
            target = mask.new_tensor(self.target) if batch.areas is None else batch.areas[:, None]
            positions = torch.arange(mask.shape[1], device=mask.device)
            wanted = (positions >= ((1 - target) * mask.shape[1]).round()).to(mask)
            return (mask.sort(1).values - wanted).square().mean(1)
        mask = mask.clamp(1e-6, 1 - 1e-6)
        if self.kind == "bce":
            return -torch.log1p(-mask).mean(1)
        return -(mask * mask.log() + (1 - mask) * torch.log1p(-mask)).mean(1)
