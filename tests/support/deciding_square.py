"""A classifier whose prediction depends on one bright square, and images with known squares."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bright(nn.Module):
    """Class 1 if the image contains a bright red square of 8 x 8 pixels, else class 0."""

    num_classes = 2

    def forward(self, x: Tensor) -> Tensor:
        evidence = 40 * nn.functional.avg_pool2d(x[:, 0], 8).amax((1, 2)) - 20
        return torch.stack([-evidence, evidence], 1)


def images_with_square(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Dark noise `[count, 3, 32, 32]` with one bright square each, and where it is, `[count, 1, 32, 32]`."""
    images = 0.3 * torch.rand(count, 3, 32, 32, generator=generator)
    square = torch.zeros(count, 1, 32, 32)
    corners = torch.randint(0, 4, (count, 2), generator=generator) * 8
    for index, (y, x) in enumerate(corners.tolist()):
        square[index, :, y : y + 8, x : x + 8] = 1
    return torch.where(square.bool(), torch.ones(()), images), square
