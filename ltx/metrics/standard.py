"""The `standard` protocol: deletion and insertion from 0 % to 100 %, with several fills."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.masking.fill import FILLS, Fill
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import Order, Prediction, counts_removed, curves, predict
from ltx.metrics.protocol import Batch, Explain, Measured, Protocol, Settings, generator
from ltx.metrics.relevance_gain import BLUECHER
from ltx.runtime.devices import tensor_on
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes

FRACTIONS = [step / 20 for step in range(21)]

PETSIUK = "Petsiuk et al., RISE, BMVC 2018"

Curves = dict[Order, Prediction]


class StandardProtocol(Protocol):
    """Perturbation curves from 0 % to 100 % in 20 steps, one pair for each fill of the settings."""

    name = "standard"

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        for fill in self.settings.fills:
            if fill not in FILLS:
                raise InputError(f"fills={fill!r} is not a valid fill; allowed: {', '.join(FILLS)}")
        if not self.settings.fills:
            raise InputError(f"fills is an empty list; give one or more of {', '.join(FILLS)}")
        self.fill = ", ".join(self.settings.fills)

    def metrics(self) -> list[PerImageMetric]:
        return [
            kind(fill)
            for fill in self.settings.fills
            for kind in (NormalisedGain, NormalisedDeletion, NormalisedInsertion)
        ]

    def prepare(self, classifier: Classifier, batch: Batch) -> Measured:
        backgrounds, removed = {}, {}
        for fill in self.settings.fills:
            draws = generator(self.settings.seed, fill)
            backgrounds[fill] = Fill(fill)(batch.images, draws, shared=True)
            removed[fill] = predict(classifier, backgrounds[fill], batch.targets, self.settings.max_batch)
        return {"backgrounds": backgrounds, "removed": removed}

    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        by_fill = {
            fill: curves(
                classifier,
                batch.images,
                maps,
                batch.targets,
                FRACTIONS,
                prepared["backgrounds"][fill],
                unmasked=batch.unmasked,
                removed=prepared["removed"][fill],
                max_batch=self.settings.max_batch,
                names=batch.names,
            )
            for fill in self.settings.fills
        }
        return {"by_fill": by_fill, "pixels": maps.shape[-2] * maps.shape[-1]}


class _FillMetric(PerImageMetric):
    protocol = "standard"
    decimals = 3

    def __init__(self, fill: str = "blur", **options: Any) -> None:
        super().__init__(**options)
        self.fill = fill

    @property
    def key(self) -> str:
        return f"{self.name} {self.fill}"


class _NormalisedCurve(_FillMetric):
    citation = PETSIUK
    columns = len(FRACTIONS) + 1
    steps = FRACTIONS
    order: Order

    def update(self, by_fill: dict[str, Curves], pixels: int) -> None:
        """Add the predictions `[B, 21]` of this metric's fill and order, for images with `pixels` pixels."""
        probability = by_fill[self.fill][self.order].probability
        self.append(area(probability, pixels), probability)


@takes(probability="float [B, 21]")
def area(probability: Tensor, pixels: int) -> Tensor:
    """Area `[B]` under curves `[B, 21]` over the fraction removed from images with `pixels` pixels."""
    # 5 % of the pixels is rarely a whole number. Integrate over the fraction that was actually removed.
    removed = tensor_on(probability.device, counts_removed(FRACTIONS, pixels)) / pixels
    return torch.trapezoid(probability, removed.to(probability.dtype), dim=1)


class NormalisedDeletion(_NormalisedCurve):
    """Mean `p_y` from the full image to the fill, with the highest pixels removed first, 0…1.

    Args:
        fill: fill for removed pixels.
    """

    name = "deletion"
    meaning = "mean p_y from image to fill, highest pixels removed first, 0...1"
    higher_is_better = False
    order = "highest"


class NormalisedInsertion(_NormalisedCurve):
    """Mean `p_y` from the fill to the full image, with the highest pixels inserted first, 0…1.

    It is computed by removing the lowest pixels first, which is the same curve reversed and has the same area.

    Args:
        fill: the image from which the insertion starts.
    """

    name = "insertion"
    meaning = "mean p_y from fill to image, highest pixels inserted first, 0...1"
    higher_is_better = True
    order = "lowest"


class NormalisedGain(_FillMetric):
    """Insertion minus deletion: the symmetric relevance gain of `p_y`, -1…1; 0 in expectation for random maps.

    Args:
        fill: fill for removed pixels.
    """

    name = "insertion-deletion"
    meaning = "insertion minus deletion, -1...1; about 0 for random maps"
    citation = BLUECHER
    higher_is_better = True
    columns = 2
    summary = True

    def update(self, by_fill: dict[str, Curves], pixels: int) -> None:
        """Add the predictions `[B, 21]` of this metric's fill in both orders, for images with `pixels` pixels."""
        highest, lowest = (by_fill[self.fill][order].probability for order in ("highest", "lowest"))
        self.append(area(highest, pixels), area(lowest, pixels))

    @takes(rows="float [n, .columns]")
    def scores(self, rows: Tensor) -> Tensor:
        return rows[:, 1] - rows[:, 0]
