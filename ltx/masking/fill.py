"""What stands where pixels are removed, and the one masked image used in training and in metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.runtime.errors import InputError
from ltx.runtime.seeds import Source, draw

FILLS = ("black", "mean", "blur", "noise")


def keep(images: Tensor, mask: Tensor, background: Tensor) -> Tensor:
    """`m·x + (1 - m)·background`: images `[B, 3, H, W]` where the mask `[B, 1, H, W]` is 1, `background` where 0."""
    return torch.lerp(background, images, mask)


class Fill:
    """Makes the background that replaces removed pixels.

    Args:
        name: `black` (zeros in pixel space); `mean` (each image's own mean colour); `blur` (Gaussian of
            `blur_sigma` times the shorter side, reflected at the borders); `noise` (independent normal pixels
            with each image's channel mean and spread, clipped to [0, 1]); `random` (one of the four, drawn for
            each image); or a list of names to draw from.
        blur_sigma: standard deviation of the blur as a share of the shorter side (0.05 is 11 px at 224).
    """

    def __init__(self, name: str | list[str] = "black", blur_sigma: float = 0.05) -> None:
        choices = list(FILLS) if name == "random" else list(name) if isinstance(name, (list, tuple)) else [name]
        for choice in choices:
            if choice not in FILLS:
                alone = "" if isinstance(name, str) else " (all of them: not in a list)"
                raise InputError(f"fill={choice!r} is unknown; allowed: {', '.join(FILLS)}, random{alone}")
        if not choices:
            raise InputError(f"fill is an empty list; allowed: {', '.join(FILLS)}, random")
        if not blur_sigma > 0:
            raise InputError(f"blur_sigma={blur_sigma}; give a share of the shorter side above 0")
        self.choices = choices
        self.blur_sigma = blur_sigma

    def first(self) -> Fill:
        """The first of the choices alone: numbers that are compared from image to image need one fill."""
        return Fill(self.choices[0], self.blur_sigma)

    def __call__(self, images: Tensor, generator: Source = None, shared: bool = False) -> Tensor:
        """The background `[B, 3, H, W]` for images `[B, 3, H, W]` in [0, 1].

        Args:
            generator: source of the draws (of `noise` and of the choice), one or one for each image; on the images'
                device or the CPU.
            shared: draw once for the whole batch, so that an image's background does not depend on its neighbours.
        """
        rows = 1 if shared else images.shape[0]
        if len(self.choices) == 1:
            return self._one(self.choices[0], images, generator, rows)
        chosen = draw(torch.rand, rows, (), generator, images).mul(len(self.choices)).long().view(-1, 1, 1, 1)
        background = torch.zeros_like(images)
        for index, choice in enumerate(self.choices):
            background = torch.where(chosen == index, self._one(choice, images, generator, rows), background)
        return background

    def _one(self, name: str, images: Tensor, generator: Source, rows: int) -> Tensor:
        if name == "black":
            return torch.zeros_like(images)
        if name == "mean":
            return images.mean((2, 3), keepdim=True).expand_as(images)
        if name == "blur":
            return gaussian_blur(images, self.blur_sigma * min(images.shape[-2:]))
        noise = draw(torch.randn, rows, tuple(images.shape[1:]), generator, images)
        spread, centre = torch.std_mean(images, (2, 3), keepdim=True)
        return (centre + spread * noise).clamp(0, 1)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of `[B, C, H, W]` with reflected borders, cut at 3 σ (or at the image's side)."""
    radius = max(1, min(round(3 * sigma), min(images.shape[-2:]) - 1))
    down, across = (_blur_matrix(size, sigma, radius, images) for size in images.shape[-2:])
    return down @ images @ across.T


def _blur_matrix(size: int, sigma: float, radius: int, like: Tensor) -> Tensor:
    """`[size, size]`: a matrix product is many times faster here than a convolution of single channels."""
    offsets = torch.arange(-radius, radius + 1, device=like.device)
    kernel = torch.exp(-0.5 * (offsets.to(like) / sigma) ** 2)
    source = (torch.arange(size, device=like.device)[:, None] + offsets).abs()
    source = (size - 1) - ((size - 1) - source).abs()  # reflected at the far border too
    matrix = torch.zeros(size, size, device=like.device, dtype=like.dtype)
    return matrix.scatter_add_(1, source, (kernel / kernel.sum()).expand(size, -1))
