"""A differentiable deletion and insertion: the order of the scores must be right at every area."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import option
from ltx.masking.area_threshold import masks_of_area
from ltx.runtime.errors import InputError
from ltx.runtime.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


@dataclass
class Ranking:
    """Keep the top share `a` of the scores: the class must survive; remove it: the class must be lost.

    For each of `areas` random `a`, the scores, standardised over the image, become the mask of that area (see
    `masks_of_area`: raising all scores alike changes no mask). Value: the mean over the areas of
    `-log p_y(kept) - log(1 - p_y(removed))`, or, with `kind="probability"`, of `1 - p_y(kept) + p_y(removed)`: a
    Monte-Carlo estimate of the areas above insertion's and under deletion's curve. Logarithms care most for what is
    kept at small areas, which they never forgive; probabilities weigh both curves as the metrics do. `removed` above 1
    trades insertion for deletion: an order cannot be the best for both where scattered pixels destroy a prediction
    sooner than its object does. With `hard`, masks are zeros and ones on the scores' grid, nearly what
    the metrics show, and the gradient is the soft mask's (straight-through).
    """

    only_in_training: ClassVar[bool] = False
    weight: Any = option(0.0, help="weight, or [[progress, weight], …]")
    areas: int = option(1, help="random areas for each image and step; each costs two masked images")
    low: float = option(0.05, help="smallest area")
    high: float = option(0.9, help="largest area")
    temperature: float = option(0.2, help="softness of the masks, in standard deviations of the scores")
    kind: str = option("log", help="log-probabilities or probabilities", choices=["log", "probability"])
    hard: bool = option(False, help="masks of zeros and ones on their grid, gradient of the soft mask")
    removed: float = option(1.0, help="weight of the removed masked images beside the kept ones, 0 or more")
    noise: float = option(0.0, help="uniform noise added to the standardised scores, half width")

    def __post_init__(self) -> None:
        spread = 0 < self.temperature < math.inf and 0 <= self.removed < math.inf and 0 <= self.noise < math.inf
        if self.areas < 1 or not spread or not 0 < self.low < self.high < 1:
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
            places = scores[0].numel()
            rank = ((1 - areas) * places).long().clamp_max(places - 1)
            possible = scores.detach() if free is None else scores.detach().masked_fill(free < 0.5, -math.inf)
            threshold = possible.flatten(1).sort(1).values.gather(1, rank)[..., None, None]
            masks = (possible >= threshold).to(masks) + masks - masks.detach()
        visible = F.interpolate(masks, batch.images.shape[-2:], mode="bilinear", align_corners=False)
        visible = visible if batch.allowed is None else visible * batch.allowed
        asked: dict[str, Tensor] = {}
        for index, mask in enumerate(visible.split(1, dim=1)):
            asked[f"ranking kept {index}"] = mask
            asked[f"ranking removed {index}"] = 1 - mask
        return asked

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
