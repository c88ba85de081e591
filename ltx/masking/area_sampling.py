"""Sampling of target areas for area-conditioned mask networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltx.config.options import option
from ltx.runtime.errors import InputError
from ltx.runtime.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.runtime.seeds import Source

SWEEP = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
"""Default areas of a sweep: shown side by side, and searched for the smallest sufficient mask."""


@dataclass
class AreaSampling:
    """Log-uniform, stratified sampling of target areas.

    The interval [log low, log high] is divided into `count` equal parts and one area is drawn from each, so that every
    step trains small and large masks of each image.
    """

    count: int = option(4, help="areas per image and step; each adds one forward pass per masked image")
    low: float = option(0.02, help="smallest area, as a fraction of the image")
    high: float = option(0.8, help="largest area, as a fraction of the image")

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 < self.low < self.high < 1:
            raise InputError(
                f"areas: count={self.count}, low={self.low}, high={self.high}; give count >= 1 and 0 < low < high < 1"
            )

    def draw(self, images: Tensor, generator: Source, shared: bool = False) -> Tensor:
        """Draw areas `[B, count]` for images `[B, …]`, in ascending order.

        Args:
            images: only their number, device and dtype are used.
            generator: source of the random numbers.
            shared: use one draw for the whole batch, so that an image's areas do not depend on the other images.
        """
        from ltx.runtime.seeds import draw

        rows = 1 if shared else len(images)
        drawn = draw(torch.rand, rows, (self.count,), generator, images)
        place = (torch.arange(self.count, device=images.device) + drawn) / self.count
        return (self.low * (self.high / self.low) ** place).expand(len(images), -1)
