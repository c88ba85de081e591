"""Random resized crops for training, decoded no finer than the crop needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ltx.data.reading import decoded, oriented_size
from ltx.runtime.errors import InputError

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Crop(NamedTuple):
    """A crop of an image.

    Attributes:
        pixels: uint8 `[C, H, W]`.
        box: its box, as fractions of the upright image's width and height.
        mirrored: whether it is flipped left to right.
    """

    pixels: Tensor
    box: Box
    mirrored: bool


@dataclass(frozen=True)
class Cropping:
    """Random resized crops that depend only on the seed, the crop's number and the image.

    Attributes:
        size: height and width of the crops.
        seed: random seed.
        scale: range of the crop's share of the image area. Its aspect ratio lies within 3:4 and 4:3 of that of `size`.
        flip: flip half of the crops left to right.
        crops_per_image: each image cycles through this many fixed crops, epoch by epoch; None = a new crop each time.
        channels: see `ltx.data.reading.decoded`.

    Raises:
        InputError: an invalid `scale`, or `crops_per_image` below 1.
    """

    size: tuple[int, int]
    seed: int
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    crops_per_image: int | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        if self.crops_per_image is not None and self.crops_per_image < 1:
            raise InputError(f"crops={self.crops_per_image}; give 1 or more, or null for a new crop each time")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"crop_scale={list(self.scale)}; give two shares of the area with 0 < low <= high <= 1")

    def number(self, index: int, position: int, count: int) -> int:
        """Number of the crop at a position of the stream.

        Args:
            index: index of the image at this position.
            position: position in the stream.
            count: images of an epoch.
        """
        if self.crops_per_image is None:
            return position
        return index * self.crops_per_image + position // count % self.crops_per_image

    def __call__(self, source: Image.Image, number: int) -> Crop:
        """Crop an image that is opened but not yet decoded, see `ltx.data.reading.opened`."""
        random = np.random.default_rng([self.seed, number])
        height, width = self.size
        full = oriented_size(source)
        left, top, right, bottom = random_box(full, width / height, self.scale, random)
        # A JPEG decodes several times faster at 1/2, 1/4 or 1/8. Reduce it only as far as the crop keeps its pixels.
        shrink = max(1, int(min((right - left) / width, (bottom - top) / height)))
        if shrink > 1:
            source.draft(None, (source.width // shrink, source.height // shrink))
        pixels = decoded(source, self.channels)
        scale_x, scale_y = pixels.shape[2] / full[0], pixels.shape[1] / full[1]
        rows = _within(round(top * scale_y), round(bottom * scale_y), pixels.shape[1])
        columns = _within(round(left * scale_x), round(right * scale_x), pixels.shape[2])
        # On uint8 tensors torch resizes as Pillow does, up to rounding, in a fifth of the time.
        crop = F.interpolate(pixels[None, :, rows, columns], self.size, mode="bicubic", antialias=True)[0]
        mirrored = self.flip and random.random() < 0.5
        if mirrored:
            crop = crop.flip(2)
        box = (left / full[0], top / full[1], right / full[0], bottom / full[1])
        return Crop(crop.contiguous(), box, mirrored)


def _within(begin: int, end: int, length: int) -> slice:
    begin = min(begin, length - 1)
    return slice(begin, min(max(end, begin + 1), length))


def random_box(size: tuple[int, int], aspect: float, scale: tuple[float, float], random: np.random.Generator) -> Box:
    """Draw a box inside an image (Szegedy et al. 2015, inception crops).

    The area is uniform in `scale`, the logarithm of the aspect ratio uniform within 3:4 and 4:3 of `aspect`, the place
    uniform. After ten draws that do not fit, the largest centred box of that aspect ratio is returned.

    Args:
        size: width and height of the image.
        aspect: width divided by height.
        scale: lowest and highest share of the image area.
        random: random generator.
    """
    width, height = size
    for _ in range(10):
        area = width * height * random.uniform(*scale)
        ratio = aspect * math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = random.uniform(0, width - w), random.uniform(0, height - h)
            return left, top, left + w, top + h
    w = min(width, height * aspect)
    h = min(height, width / aspect)
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2
