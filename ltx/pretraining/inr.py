"""INR pretraining: one coordinate network learns the masks of all areas, over many images and without labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ltx.masking.area_sampling import AreaSampling
from ltx.pretraining.ltx import LTXPretraining
from ltx.runtime.seeds import Source

VALIDATED = (0.05, 0.1, 0.2, 0.5)
"""The areas that validation asks for."""


class INRPretraining(LTXPretraining):
    """Area-conditioned masks (Byra & Skibbe, WACV 2025), amortised: the paper fits a network to each image.

    The steps are those of `LTXPretraining`, but each image is asked for several areas, drawn anew; they share its
    features, every mask of every image is a row of the objective, and all masked images go through the classifier
    together. The objective's terms say whether the kept pixels must preserve the prediction, the removed ones destroy
    it, or both; that the areas hold needs no term.

    Args:
        areas: which areas are asked for.
        settings: those of `LTXPretraining`, its explainer one that takes areas.
    """

    def __init__(self, areas: AreaSampling, **settings: Any) -> None:
        super().__init__(**settings)
        self.areas = areas

    def areas_in_training(self, images: Tensor, generator: Source) -> Tensor:
        return self.areas.draw(images, generator)

    def areas_in_validation(self, images: Tensor) -> Tensor:
        return images.new_tensor(VALIDATED).expand(len(images), -1)

    def shares(self, name: str, share: Tensor) -> dict[str, Tensor]:
        """Their mean over all areas, and over images for each."""
        each = share.view(-1, len(VALIDATED)).mean(0)
        return super().shares(name, share) | {f"val/{name}_{a:g}": s for a, s in zip(VALIDATED, each, strict=True)}
