"""Which areas an area-conditioned network is asked for in a step."""

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
"""Areas of the masks that are shown side by side and searched for the smallest sufficient one."""


@dataclass
class AreaSampling:
    """Which areas an area-conditioned network is asked for in a step: continuous, small ones as often as large ones.

    The logarithm of [low, high] is cut into `count` equal parts, and one area drawn uniformly in each, so that every
    step sees small and large masks of an image.
    """

    count: int = option(4, help="areas of each image and step; each costs a pass for every masked image")
    low: float = option(0.02, help="smallest area")
    high: float = option(0.8, help="largest area")

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 < self.low < self.high < 1:
            raise InputError(
                f"areas: count={self.count}, low={self.low}, high={self.high}; need count >= 1, 0 < low < high < 1"
            )

    def draw(self, images: Tensor, generator: Source, shared: bool = False) -> Tensor:
        """Areas `[B, count]` for images `[B, …]`, ascending.

        Args:
            shared: draw once for the whole batch, so that an image's areas do not depend on its neighbours.
        """
        from ltx.runtime.seeds import draw

        rows = 1 if shared else len(images)
        drawn = draw(torch.rand, rows, (self.count,), generator, images)
        place = (torch.arange(self.count, device=images.device) + drawn) / self.count
        return (self.low * (self.high / self.low) ** place).expand(len(images), -1)
