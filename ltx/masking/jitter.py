"""Random shifts and horizontal flips of masked images before classification."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.runtime.errors import InputError


def draw_jitter(shift: int, generator: torch.Generator) -> Callable[[Tensor], Tensor] | None:
    """Draw a flip (with probability 1/2) and a shift of up to `shift` pixels for all masked images of a step.

    Jitter discourages adversarial masks, which fool the classifier at one position only (Fong et al. 2019 flip every
    other step). Shifted-in pixels are a reflection of the image at its border.

    Returns:
        The transformation of images `[B, C, H, W]`, or None if `shift` is 0. It raises `InputError` if the shift is
        not smaller than the images.
    """
    if shift == 0:
        return None
    draws = torch.rand(3, generator=generator, device=generator.device).tolist()
    down, across = (int(draw * (2 * shift + 1)) for draw in draws[1:])

    def move(masked_images: Tensor) -> Tensor:
        height, width = masked_images.shape[-2:]
        if shift >= min(height, width):
            raise InputError(f"jitter={shift} is not smaller than the images ({width}x{height}); give a smaller shift")
        masked_images = masked_images.flip(3) if draws[0] < 0.5 else masked_images
        padded = F.pad(masked_images, (shift,) * 4, mode="reflect")
        return padded[..., down : down + height, across : across + width]

    return move
