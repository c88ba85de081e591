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
    """A part of a picture: uint8 `[3, H, W]`, where it lies as shares of width and height, whether it is mirrored."""

    pixels: Tensor
    box: Box
    mirrored: bool


@dataclass(frozen=True)
class Cropping:
    """Random resized crops that depend on the seed, a number and the picture alone.

    Attributes:
        size: height and width of the crops.
        seed: of every draw.
        scale: range of the crop's share of the image's area; its aspect ratio is within 3:4 and 4:3 of `size`.
        flip: mirror half of the crops.
        each: crops of an image, which come again in turn, epoch by epoch; None = always another one.

    Raises:
        InputError: a scale that is no range of shares, or no crops.
    """

    size: tuple[int, int]
    seed: int
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    each: int | None = None

    def __post_init__(self) -> None:
        if self.each is not None and self.each < 1:
            raise InputError(f"crops={self.each}; give 1 or more, or null for another crop each time")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"crop_scale={list(self.scale)}; give two shares of the area with 0 < low <= high <= 1")

    def number(self, index: int, position: int, count: int) -> int:
        """The number of the crop at a position of a stream of `count` images, which shows the image `index` there."""
        return position if self.each is None else index * self.each + position // count % self.each

    def __call__(self, source: Image.Image, number: int) -> Crop:
        """A crop of an opened picture that is not decoded yet, see `ltx.data.reading.opened`."""
        random = np.random.default_rng([self.seed, number])
        height, width = self.size
        full = oriented_size(source)
        left, top, right, bottom = random_box(full, width / height, self.scale, random)
        # A JPEG decodes several times faster at 1/2, 1/4 or 1/8; only as far as the crop keeps its pixels.
        shrink = max(1, int(min((right - left) / width, (bottom - top) / height)))
        if shrink > 1:
            source.draft(None, (source.width // shrink, source.height // shrink))
        pixels = decoded(source)
        across, down = pixels.shape[2] / full[0], pixels.shape[1] / full[1]
        rows = _within(round(top * down), round(bottom * down), pixels.shape[1])
        columns = _within(round(left * across), round(right * across), pixels.shape[2])
        # torch resizes 8-bit pixels as Pillow does, to a rounding, in a fifth of the time.
        crop = F.interpolate(pixels[None, :, rows, columns], self.size, mode="bicubic", antialias=True)[0]
        mirrored = self.flip and random.random() < 0.5
        if mirrored:
            crop = crop.flip(2)
        shares = (left / full[0], top / full[1], right / full[0], bottom / full[1])
        return Crop(crop.contiguous(), shares, mirrored)


def _within(begin: int, end: int, length: int) -> slice:
    begin = min(begin, length - 1)
    return slice(begin, min(max(end, begin + 1), length))


def random_box(size: tuple[int, int], aspect: float, scale: tuple[float, float], random: np.random.Generator) -> Box:
    """A box inside an image of `size` (width, height): area uniform in `scale`, log aspect uniform within 3:4 and 4:3
    of `aspect` (Szegedy et al. 2015), place uniform; the largest centred one after ten draws that do not fit."""
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
