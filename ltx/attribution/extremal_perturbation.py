"""Extremal perturbations (Fong, Patrick & Vedaldi, ICCV 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import CPU_ROWS, Classifier
from ltx.masking.fill import gaussian_blur
from ltx.runtime.errors import InputError

AREAS = (0.025, 0.05, 0.1, 0.2)
SIDE = 224  # image side in pixels that the published lengths below refer to; they scale with the image
STEP, SIGMA, LEVELS, BLUR = 7, 21, 8, 20.0
COLDNESS = 20.0
AREA_WEIGHT, GROWTH = 300.0, 1.0035


def extremal_perturbation(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    areas: Sequence[float] = AREAS,
    steps: int = 800,
    max_batch: int = 64,
) -> Tensor:
    """Sum over areas of the masks of that area that maximise the class logit, `argmax f_y(keep(x, m))`, `mean(m) = a`.

    See `extremal_masks`. For the pointing game, the authors blur this sum before taking its maximum.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        areas: mask areas, fractions of the image.
        steps: optimiser steps, each one forward and one backward pass per area.
        max_batch: maximum number of masks in a forward pass.

    Returns:
        Maps `[B, 1, H, W]` in [0, number of areas].
    """
    return extremal_masks(classifier, images, targets, areas, steps, max_batch).sum(1, keepdim=True)


def extremal_masks(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    areas: Sequence[float] = AREAS,
    steps: int = 800,
    max_batch: int = 64,
) -> Tensor:
    """One mask per area and image, all optimised in parallel.

    As published: a grid of values 7 px apart, initialised to 1, is turned into a mask by the smooth maximum
    `Σ w softmax(20 w)`, where `w` is a value times `exp(-2 max(z - ½, 0)²)` at a distance of 21 z px. The mask blends a
    pyramid of eight blurs (σ 20 to 0 px). The loss is the negative logit plus 300 · 1.0035^t times the mean squared
    difference between the sorted mask and a step function of the target area. SGD with learning rate 0.01, momentum and
    dampening 0.9; values are clipped to [0, 1]; the image is flipped horizontally on even steps. Unlike the published
    code, which sorts a mask larger than the image, the area is that of the visible mask.

    Returns:
        `[B, A, H, W]` in [0, 1].

    Raises:
        InputError: an area is not between 0 and 1, or `steps` is not positive.
    """
    values: list[Any] = list(areas) if isinstance(areas, Sequence) and not isinstance(areas, str) else [areas]
    if steps < 1 or not values or not all(isinstance(area, (int, float)) and 0 < area < 1 for area in values):
        raise InputError(f"areas={areas}, steps={steps}; give areas between 0 and 1, and at least one step")
    areas = [float(area) for area in values]
    classes = explained_classes(classifier, images, targets, max_batch)
    group = max(1, max_batch // len(areas))
    masks = [
        _optimised_masks(classifier, part, targets, areas, steps, max_batch)
        for part, targets in zip(images.split(group), classes.split(group), strict=True)
    ]
    return torch.cat(masks)


def _optimised_masks(
    classifier: Classifier, images: Tensor, targets: Tensor, areas: Sequence[float], steps: int, max_batch: int
) -> Tensor:
    smooth = SmoothMaximum(images)
    pyramid = blur_pyramid(images)
    rows = torch.arange(len(images), device=images.device).repeat_interleave(len(areas))
    step_functions = torch.stack([_step_of_area(area, images) for area in areas]).repeat(len(images), 1)
    values = torch.ones(len(rows), 1, *smooth.grid, device=images.device, requires_grad=True)
    sgd = torch.optim.SGD([values], lr=0.01, momentum=0.9, dampening=0.9)
    chunk = min(CPU_ROWS if images.device.type == "cpu" else len(rows), max_batch)
    parts = list(torch.arange(len(rows), device=images.device).split(chunk))
    for step in range(steps):
        sgd.zero_grad()
        weight = AREA_WEIGHT * GROWTH**step
        for part in parts:
            masks = smooth(values[part])
            masked_images = blended(pyramid[rows[part]], masks)
            logits = classifier(masked_images.flip(3) if step % 2 == 0 else masked_images)
            reward = logits.gather(1, targets[rows[part], None]).sum()
            area_error = (masks.flatten(1).sort(1).values - step_functions[part]).square().mean(1).sum()
            (weight * area_error - reward).backward()
        sgd.step()
        with torch.no_grad():
            values.clamp_(0, 1)
    with torch.no_grad():
        masks = torch.cat([smooth(values[part]) for part in parts])
    return masks.view(len(images), len(areas), *images.shape[-2:])


def _step_of_area(area: float, images: Tensor) -> Tensor:
    """Target of the sorted mask `[H·W]`: 0 for the first `1 - area` of the pixels, then 1."""
    count = images.shape[-2] * images.shape[-1]
    return (torch.arange(count, device=images.device) >= round((1 - area) * count)).to(images)


class SmoothMaximum:
    """Turns values on a grid `[N, 1, h, w]` into masks `[N, 1, H, W]`.

    A pixel depends on the grid points of the 9 × 9 cells around it (the kernel radius plus one); points beyond the
    image border count as 0. Pixels at the same position within their cell share their weights.
    """

    def __init__(self, images: Tensor) -> None:
        self.size = images.shape[-2:]
        scale = min(self.size) / SIDE
        self.step, sigma = max(1, round(STEP * scale)), SIGMA * scale
        self.radius = 1 + math.ceil(sigma / self.step)
        self.grid = tuple(math.ceil(side / self.step) for side in self.size)
        offsets = torch.arange(-self.radius, self.radius + 1, device=images.device) * self.step
        positions = torch.arange(self.step, device=images.device) - (self.step - 1) / 2
        along = (positions[None, :] - offsets[:, None]).square()  # from the neighbours to the positions in a cell
        distance = (along[:, None, :, None] + along[None, :, None, :]).sqrt() / sigma
        weights = torch.exp(-2 * (distance - 0.5).clamp_min(0).square()).flatten(0, 1)
        self.weights = weights.to(images)  # [neighbours, step, step]

    def __call__(self, values: Tensor) -> Tensor:
        window = 2 * self.radius + 1
        neighbours = F.unfold(values, window, padding=self.radius).unflatten(2, self.grid)
        masks: Tensor = _SmoothMaximum.apply(neighbours, self.weights)
        masks = masks.permute(0, 3, 1, 4, 2).flatten(3, 4).flatten(1, 2)[:, : self.size[0], : self.size[1]]
        return masks.unsqueeze(1)


class _SmoothMaximum(torch.autograd.Function):
    """`S = Σ w softmax(20 w)`, `w` = value × weight, over the neighbours; `dS/dw = softmax(20 w) (1 + 20 (w - S))`.

    Materialising all neighbours of all pixels takes several times 81 images of memory. Processing one neighbour at a
    time and recomputing intermediate values in the backward pass takes a third of the time on a CPU. `exp(20 w)` does
    not exceed 5e8.

    Shape: values `[N, neighbours, h, w]` and weights `[neighbours, step, step]` to `[N, step, step, h, w]`.
    """

    @staticmethod
    def forward(ctx: Any, neighbours: Tensor, weights: Tensor) -> Tensor:
        denominator = numerator = torch.zeros((), device=neighbours.device)
        for value, weight in zip(neighbours.unbind(1), weights, strict=True):
            weighted = value[:, None, None] * weight[..., None, None]
            share = (COLDNESS * weighted).exp_()
            denominator, numerator = denominator + share, numerator + weighted.mul_(share)
        result = numerator / denominator
        ctx.save_for_backward(neighbours, weights, denominator, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        neighbours, weights, denominator, result = ctx.saved_tensors
        scaled = gradient / denominator
        rest = scaled * (1 - COLDNESS * result)
        gradients = []
        for value, weight in zip(neighbours.unbind(1), weights, strict=True):
            weighted = COLDNESS * value[:, None, None] * weight[..., None, None]
            slope = torch.addcmul(rest, scaled, weighted).mul_(weighted.exp_())
            gradients.append(torch.einsum("nyxhw,yx->nhw", slope, weight))
        return torch.stack(gradients, 1), None


def blur_pyramid(images: Tensor) -> Tensor:
    """Images from blurred (σ 20 px at side 224) to sharp, `[B, 8, 3, H, W]`."""
    widths = [BLUR * min(images.shape[-2:]) / SIDE * (1 - index / (LEVELS - 1)) for index in range(LEVELS)]
    return torch.stack([gaussian_blur(images, width) if width > 0 else images for width in widths], 1)


def blended(pyramid: Tensor, masks: Tensor) -> Tensor:
    """Blend the levels of a pyramid `[N, 8, 3, H, W]` linearly: mask `[N, 1, H, W]` 0 = most blurred, 1 = sharp."""
    level = masks * (pyramid.shape[1] - 1)
    below = level.detach().floor().clamp(0, pyramid.shape[1] - 2)
    index = below.long()[:, None].expand(-1, -1, pyramid.shape[2], -1, -1)
    low, high = (pyramid.gather(1, index + up).squeeze(1) for up in (0, 1))
    return torch.lerp(low, high, level - below)
