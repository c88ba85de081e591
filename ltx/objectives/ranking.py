"""The ranking term: a differentiable form of the deletion and insertion metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import option
from ltx.config.schedules import has_schedules
from ltx.masking.area_threshold import masks_of_area
from ltx.objectives.terms import checks_logits
from ltx.runtime.errors import InputError
from ltx.runtime.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


@dataclass
class Ranking:
    """Keeping the top share `a` of the scores preserves the class, and removing it destroys the class, for random `a`.

    For each of `areas` random areas `a`, the scores, standardised over the image, are thresholded to the mask of that
    area (see `masks_of_area`), so that adding a constant to all scores changes no mask. The value is the mean over the
    areas of `-log p_y(kept) - log(1 - p_y(removed))` or, with `kind="probability"`, of `1 - p_y(kept) + p_y(removed)`:
    a Monte Carlo estimate of the area above the insertion curve plus the area under the deletion curve. Logarithms
    emphasise small areas, where the probability is lowest; probabilities weight both curves as the metrics do.

    `removed` above 1 trades insertion for deletion: no order is optimal for both where scattered pixels destroy a
    prediction sooner than its object does. With `hard`, masks are binary on the scores' grid, close to those of the
    metrics, and the gradient is that of the soft mask (straight-through).
    """

    only_in_training: ClassVar[bool] = False
    turn: ClassVar[str | None] = "order"
    weight: Any = option(0.0, help="weight", scheduled=(0, math.inf))
    areas: int = option(1, help="random areas per image and step; each costs two masked images")
    low: Any = option(0.05, help="smallest area", scheduled=(0, 1))
    high: Any = option(0.9, help="largest area", scheduled=(0, 1))
    temperature: Any = option(
        0.2, help="softness of the masks, in standard deviations of the scores", scheduled=(0, math.inf)
    )
    kind: str = option("log", help="log-probabilities or probabilities", choices=["log", "probability"])
    hard: bool = option(False, help="binary masks on the scores' grid, with the gradient of the soft mask")
    removed: Any = option(
        1.0, help="weight of the removed pixels relative to the kept ones, 0 or more", scheduled=(0, math.inf)
    )
    noise: Any = option(
        0.0, help="half width of the uniform noise added to the standardised scores", scheduled=(0, math.inf)
    )

    def __post_init__(self) -> None:
        if has_schedules(self):
            return  # `ObjectiveConfig` checks the values at each point of the schedules
        finite = 0 < self.temperature < math.inf and 0 <= self.removed < math.inf and 0 <= self.noise < math.inf
        if self.areas < 1 or not finite or not 0 < self.low < self.high < 1:
            raise InputError(
                f"objective.ranking: areas={self.areas}, temperature={self.temperature}, low={self.low}, "
                f"high={self.high}, removed={self.removed}, noise={self.noise}; need areas >= 1, temperature > 0, "
                "0 < low < high < 1, removed >= 0, noise >= 0"
            )

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        scores = batch.scores.float()
        spread, centre = torch.std_mean(scores, (2, 3), keepdim=True)
        scores = (scores - centre) / (spread + 1e-6)
        if self.noise:
            scores = scores + self.noise * (2 * batch.uniform(*scores.shape[1:]) - 1)
        areas = self.low + (self.high - self.low) * batch.uniform(self.areas)
        free = None if batch.allowed is None else F.interpolate(batch.allowed, scores.shape[-2:], mode="area")
        masks = masks_of_area(scores.expand(-1, self.areas, -1, -1), areas, self.temperature, free)
        if self.hard:
            cells = scores[0].numel()
            rank = ((1 - areas) * cells).long().clamp_max(cells - 1)
            candidates = scores.detach() if free is None else scores.detach().masked_fill(free < 0.5, -math.inf)
            threshold = candidates.flatten(1).sort(1).values.gather(1, rank)[..., None, None]
            masks = (candidates >= threshold).to(masks) + masks - masks.detach()
        visible = F.interpolate(masks, batch.images.shape[-2:], mode="bilinear", align_corners=False)
        visible = visible if batch.allowed is None else visible * batch.allowed
        named: dict[str, Tensor] = {}
        for index, mask in enumerate(torch.split(visible, 1, dim=1)):
            named[f"ranking kept {index}"] = mask
            named[f"ranking removed {index}"] = 1 - mask
        return named

    @checks_logits
    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        classifier, total = batch.classifier, torch.zeros_like(batch.targets, dtype=torch.float32)
        for index in range(self.areas):
            kept, removed = (logits[f"ranking {part} {index}"] for part in ("kept", "removed"))
            if self.kind == "probability":
                total = total + 1 - classifier.log_probability(kept, batch.targets).exp()
                total = total + self.removed * classifier.log_probability(removed, batch.targets).exp()
            else:
                total = total - classifier.log_probability(kept, batch.targets)
                total = total - self.removed * classifier.log_complement(removed, batch.targets)
        return total / self.areas
