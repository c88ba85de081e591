"""Fills for removed pixels, and the masked images used in training and in metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.runtime.errors import InputError
from ltx.runtime.seeds import Source, draw
from ltx.runtime.tensor_arguments import takes

FILLS = ("black", "mean", "blur", "noise")


@takes(images="float [B, C, H, W]", background="float [B, C, H, W]", mask="float [..., B, 1, H, W]")
def keep(images: Tensor, mask: Tensor, background: Tensor) -> Tensor:
    """Compute masked images `m·x + (1 - m)·background`.

    Args:
        images: `[B, C, H, W]`.
        mask: `[B, 1, H, W]` in [0, 1]; 1 keeps the pixel. Several masks per image, `[M, B, 1, H, W]`, give masked
            images `[M, B, C, H, W]`.
        background: `[B, C, H, W]`, see `Fill`.

    Raises:
        InputError: the three do not have one floating type, or their shapes do not fit.
    """
    if not images.dtype == mask.dtype == background.dtype:
        types = f"images of {images.dtype}, a mask of {mask.dtype} and a background of {background.dtype}"
        raise InputError(f"{types}; give floats of one type")
    return torch.lerp(background, images, mask)


class Fill:
    """The background that replaces removed pixels.

    Args:
        name: `black` (zeros in pixel space); `mean` (the image's mean of each channel); `blur` (Gaussian blur of the
            image with reflected borders); `noise` (independent normal pixels with the image's mean and standard
            deviation of each channel, clipped to [0, 1]); `random` (one of the four, drawn for each image); or a list
            of names to draw from.
        blur_sigma: standard deviation of the blur as a fraction of the shorter side (0.05 is 11 px at 224 px).

    Raises:
        InputError: an unknown name, an empty list, or a `blur_sigma` of 0 or less.
    """

    def __init__(self, name: str | list[str] = "black", blur_sigma: float = 0.05) -> None:
        choices = list(FILLS) if name == "random" else list(name) if isinstance(name, (list, tuple)) else [name]
        for choice in choices:
            if choice not in FILLS:
                alone = "" if isinstance(name, str) else " (not inside a list)"
                raise InputError(f"fill={choice!r} is unknown; allowed: {', '.join(FILLS)}, random{alone}")
        if not choices:
            raise InputError(f"fill is an empty list; allowed: {', '.join(FILLS)}, random")
        if not blur_sigma > 0:
            raise InputError(f"blur_sigma={blur_sigma}; give a fraction of the shorter side above 0")
        self.choices = choices
        self.blur_sigma = blur_sigma

    def first(self) -> Fill:
        """A fill with the first choice only: numbers that are compared between images need a single fill."""
        return Fill(self.choices[0], self.blur_sigma)

    @takes(images="float [B, C, H, W]")
    def __call__(self, images: Tensor, generator: Source = None, shared: bool = False) -> Tensor:
        """Compute the background `[B, C, H, W]` of images `[B, C, H, W]` in [0, 1].

        Args:
            images: the unmasked images.
            generator: source of the random numbers for `noise` and for the choice of the fill, one for the batch or
                one for each image, on the images' device or the CPU.
            shared: use one draw for the whole batch, so that an image's background does not depend on other images.
        """
        rows = 1 if shared else images.shape[0]
        if len(self.choices) == 1:
            return self._background(self.choices[0], images, generator, rows)
        chosen = draw(torch.rand, rows, (), generator, images).mul(len(self.choices)).long().view(-1, 1, 1, 1)
        background = torch.zeros_like(images)
        for index, choice in enumerate(self.choices):
            background = torch.where(chosen == index, self._background(choice, images, generator, rows), background)
        return background

    def _background(self, name: str, images: Tensor, generator: Source, rows: int) -> Tensor:
        if name == "black":
            return torch.zeros_like(images)
        if name == "mean":
            return images.mean((2, 3), keepdim=True).expand_as(images)
        if name == "blur":
            return gaussian_blur(images, self.blur_sigma * min(images.shape[-2:]))
        noise = draw(torch.randn, rows, tuple(images.shape[1:]), generator, images)
        std, mean = torch.std_mean(images, (2, 3), keepdim=True)
        return (mean + std * noise).clamp(0, 1)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of `[B, C, H, W]` with reflected borders, truncated at 3 σ (or at the image size)."""
    radius = max(0, min(max(1, round(3 * sigma)), min(images.shape[-2:]) - 1))
    down, across = (_blur_matrix(size, sigma, radius, images) for size in images.shape[-2:])
    return down @ images @ across.T


def _blur_matrix(size: int, sigma: float, radius: int, like: Tensor) -> Tensor:
    """The blur along one axis as a matrix `[size, size]`, many times faster than a depthwise convolution."""
    offsets = torch.arange(-radius, radius + 1, device=like.device)
    kernel = torch.exp(-0.5 * (offsets.to(like) / sigma) ** 2)
    source = (torch.arange(size, device=like.device)[:, None] + offsets).abs()
    source = (size - 1) - ((size - 1) - source).abs()  # reflection at the far border
    matrix = torch.zeros(size, size, device=like.device, dtype=like.dtype)
    return matrix.scatter_add_(1, source, (kernel / kernel.sum()).expand(size, -1))
