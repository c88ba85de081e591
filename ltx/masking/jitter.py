"""Random shifts and mirrorings of masked images before they are classified."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.runtime.errors import InputError


def draw_jitter(shift: int, generator: torch.Generator) -> Callable[[Tensor], Tensor] | None:
    """A mirroring (half of the time) and a shift by up to `shift` pixels for all masked images of a step; None for 0.

    A mask that fools the classifier at one place and not at the next is of no use to it (Fong et al. 2019 mirror every
    other step). What is shifted in is the reflection of the border.
    """
    if shift == 0:
        return None
    draws = torch.rand(3, generator=generator, device=generator.device).tolist()
    down, across = (int(draw * (2 * shift + 1)) for draw in draws[1:])

    def move(masked_images: Tensor) -> Tensor:
        height, width = masked_images.shape[-2:]
        if shift >= min(height, width):
            raise InputError(f"jitter={shift} moves pictures of {width}x{height} out of sight; give less")
        masked_images = masked_images.flip(3) if draws[0] < 0.5 else masked_images
        padded = F.pad(masked_images, (shift,) * 4, mode="reflect")
        return padded[..., down : down + height, across : across + width]

    return move
