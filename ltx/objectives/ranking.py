"""A differentiable deletion and insertion: the order of the scores must be right at every area."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.config import option
from ltx.errors import InputError
from ltx.objectives.terms import MaskedBatch


@dataclass
class Ranking:
    """Keep the top share `a` of the scores: the class must survive; remove it: the class must be lost.

    For each of `areas` random `a`, the scores, standardised over the image, become the mask
    `sigmoid((s - q) / temperature)`, `q` the `1 - a` quantile. Value: the mean over the areas of
    `-log p_y(kept) - log(1 - p_y(removed))`, a Monte-Carlo estimate of the areas above insertion's and under deletion's
    curve, in log-probability. With `hard`, the composites are those that the metrics show (a mask of zeros and ones)
    and the gradient is the soft mask's (straight-through).
    """

    weight: Any = option(0.0, help="weight, or [[progress, weight], …]")
    areas: int = option(1, help="random areas for each image and step; each costs two composites")
    low: float = option(0.05, help="smallest area")
    high: float = option(0.9, help="largest area")
    temperature: float = option(0.2, help="softness of the masks, in standard deviations of the scores")
    hard: bool = option(False, help="composites of zeros and ones, gradient of the soft mask")
    noise: float = option(0.0, help="uniform noise added to the standardised scores, half width")

    def __post_init__(self) -> None:
        if self.areas < 1 or self.temperature <= 0 or not 0 < self.low < self.high < 1:
            raise InputError(
                f"objective.ranking: areas={self.areas}, temperature={self.temperature}, low={self.low}, "
                f"high={self.high}; need areas >= 1, temperature > 0, 0 < low < high < 1"
            )

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        scores = batch.scores.float().flatten(1)
        spread, centre = torch.std_mean(scores.detach(), 1, keepdim=True)
        scores = (scores - centre) / (spread + 1e-6)
        if self.noise:
            scores = scores + self.noise * (2 * batch.uniform(scores.shape[1]) - 1)
        ordered = scores.detach().sort(1).values
        areas = self.low + (self.high - self.low) * batch.uniform(self.areas)
        asked: dict[str, Tensor] = {}
        for index in range(self.areas):
            rank = ((1 - areas[:, index : index + 1]) * scores.shape[1]).long().clamp_max(scores.shape[1] - 1)
            threshold = ordered.gather(1, rank)
            soft = ((scores - threshold) / self.temperature).sigmoid()
            mask = (scores >= threshold).to(soft) + soft - soft.detach() if self.hard else soft
            visible = F.interpolate(
                mask.view_as(batch.scores), batch.images.shape[-2:], mode="bilinear", align_corners=False
            )
            asked[f"ranking kept {index}"] = visible
            asked[f"ranking removed {index}"] = 1 - visible
        return asked

    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        classifier, total = batch.classifier, torch.zeros_like(batch.targets, dtype=torch.float32)
        for index in range(self.areas):
            total = total - classifier.log_probability(logits[f"ranking kept {index}"], batch.targets)
            total = total - classifier.log_complement(logits[f"ranking removed {index}"], batch.targets)
        return total / self.areas
