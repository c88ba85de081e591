"""INR pretraining: one coordinate network learns masks of every area over many unlabelled images."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ltx.masking.area_sampling import AreaSampling
from ltx.pretraining.ltx import LTXPretraining
from ltx.runtime.devices import tensor_on
from ltx.runtime.seeds import Source

VALIDATION_AREAS = (0.05, 0.1, 0.2, 0.5)
"""Areas of the masks in validation, as shares of the image."""


class INRPretraining(LTXPretraining):
    """Amortised area-conditioned masks (Byra & Skibbe, WACV 2025; the paper fits a network to each image).

    Steps are those of `LTXPretraining`, with several random areas for each image. The masks of an image share its
    features; every mask is a row of the objective, and all masked images pass the classifier together. The objective's
    terms decide whether kept pixels must preserve the prediction, removed pixels destroy it, or both. The area needs
    no term: the network's masks have the requested area by construction.

    Args:
        areas: distribution of the areas in training.
        settings: arguments of `LTXPretraining`; the explainer must take areas.
    """

    def __init__(self, areas: AreaSampling, **settings: Any) -> None:
        super().__init__(**settings)
        self.areas = areas

    def training_areas(self, images: Tensor, generator: Source) -> Tensor:
        return self.areas.draw(images, generator)

    def validation_areas(self, images: Tensor) -> Tensor:
        return tensor_on(images.device, VALIDATION_AREAS).expand(len(images), -1)

    def validation_scores(self, name: str, share: Tensor) -> dict[str, Tensor]:
        """The mean over all areas, and the mean over images for each area."""
        by_area = share.view(-1, len(VALIDATION_AREAS)).mean(0)
        scores = super().validation_scores(name, share)
        return scores | {f"val/{name}_{a:g}": s for a, s in zip(VALIDATION_AREAS, by_area, strict=True)}
