"""Masks of several areas at once, judged by the same terms: every area of an image is a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.config.options import option
from ltx.objectives.terms import MaskedBatch
from ltx.runtime.errors import InputError
from ltx.runtime.seeds import Source, draw


@dataclass
class AreaSampling:
    """Which areas an area-conditioned network is asked for in a step: continuous, small ones as often as large ones.

    The logarithm of [low, high] is cut into `count` equal parts, and one area drawn uniformly in each, so that every
    step sees small and large masks of an image.
    """

    count: int = option(4, help="areas of each image and step; each costs a pass for every composite")
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
        rows = 1 if shared else len(images)
        drawn = draw(torch.rand, rows, (self.count,), generator, images)
        place = (torch.arange(self.count, device=images.device) + drawn) / self.count
        return (self.low * (self.high / self.low) ** place).expand(len(images), -1)


def rows_of_areas(batch: MaskedBatch, areas: Tensor) -> MaskedBatch:
    """A batch with masks `[B, A, H, W]` (and scores `[B, A or 1, h, w]`) of areas `[B, A]` as a batch of `B·A` rows."""
    count = areas.shape[1]

    def repeat(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(count, 0)

    generator = batch.generator
    if isinstance(generator, Sequence):
        generator = [each for each in generator for _ in range(count)]
    return MaskedBatch(
        classifier=batch.classifier,
        images=repeat(batch.images),
        background=repeat(batch.background),
        targets=repeat(batch.targets),
        clean=repeat(batch.clean),
        scores=batch.scores.expand(-1, count, -1, -1).flatten(0, 1).unsqueeze(1),
        mask=batch.mask.flatten(0, 1).unsqueeze(1),
        generator=generator,
        shared_draws=batch.shared_draws,
        teacher=None if batch.teacher is None else repeat(batch.teacher),
        elsewhere=None if batch.elsewhere is None else repeat(batch.elsewhere),
        areas=areas.flatten(),
        allowed=None if batch.allowed is None else repeat(batch.allowed),
        jitter=batch.jitter,
    )


def draw_jitter(shift: int, generator: torch.Generator) -> Callable[[Tensor], Tensor] | None:
    """A mirroring (half of the time) and a shift by up to `shift` pixels for all composites of a step; None for 0.

    A mask that fools the classifier at one place and not at the next is of no use to it (Fong et al. 2019 mirror every
    other step). What is shifted in is the reflection of the border.
    """
    if shift == 0:
        return None
    draws = torch.rand(3, generator=generator, device=generator.device).tolist()
    down, across = (int(draw * (2 * shift + 1)) for draw in draws[1:])

    def move(composites: Tensor) -> Tensor:
        height, width = composites.shape[-2:]
        if shift >= min(height, width):
            raise InputError(f"jitter={shift} moves pictures of {width}x{height} out of sight; give less")
        composites = composites.flip(3) if draws[0] < 0.5 else composites
        padded = F.pad(composites, (shift,) * 4, mode="reflect")
        return padded[..., down : down + height, across : across + width]

    return move
