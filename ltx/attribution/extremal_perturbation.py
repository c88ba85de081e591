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
SIDE = 224  # the published lengths, in pixels, are for this side; other images have them in proportion
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
    """The sum over areas of the masks that keep the class's logit highest, `argmax f_y(keep(x, m))`, `mean(m) = a`.

    See `extremal_masks`. For the pointing game its authors blur this sum before they take its maximum.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: classes `[B]`; None = the predicted ones.
        areas: of the masks.
        steps: of the optimiser, each a forward and a backward pass for each area.
        max_batch: masks at once.

    Returns:
        `[B, 1, H, W]`, from 0 to the number of areas.
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
    """A mask of each area for each image, all of them optimised side by side.

    As published: a grid of values 7 px apart, all 1 at first; a smooth maximum `Σ w softmax(20 w)` of them, `w` being a
    value times `exp(-2 max(z - ½, 0)²)` at a distance of 21 z px, makes the mask; the mask blends a pyramid of eight
    blurs (σ 20 to 0 px); the loss is minus the logit, plus 300 · 1.0035^t times the mean square of the sorted mask
    minus a step of the wanted area; SGD (rate 0.01, momentum and dampening 0.9), values clipped to [0, 1], the
    picture mirrored on even steps. Unlike the published code, which sorts a mask that is larger than the picture, the
    area is that of the visible mask.

    Returns:
        `[B, A, H, W]` in [0, 1].

    Raises:
        InputError: an area that is no share of the image, or no steps.
    """
    listed = list(areas) if isinstance(areas, Sequence) and not isinstance(areas, str) else [areas]
    if steps < 1 or not listed or not all(isinstance(area, (int, float)) and 0 < area < 1 for area in listed):
        raise InputError(f"areas={areas}, steps={steps}; give areas between 0 and 1, and at least one step")
    areas = [float(area) for area in listed]  # type: ignore[arg-type]
    chosen = explained_classes(classifier, images, targets, max_batch)
    group = max(1, max_batch // len(areas))
    found = [
        _optimised(classifier, part, classes, areas, steps, max_batch)
        for part, classes in zip(images.split(group), chosen.split(group), strict=True)
    ]
    return torch.cat(found)


def _optimised(
    classifier: Classifier, images: Tensor, targets: Tensor, areas: Sequence[float], steps: int, max_batch: int
) -> Tensor:
    smooth = SmoothMaximum(images)
    pyramid = blur_pyramid(images)
    rows = torch.arange(len(images), device=images.device).repeat_interleave(len(areas))
    wanted = torch.stack([_step_of_area(area, images) for area in areas]).repeat(len(images), 1)
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
            miss = (masks.flatten(1).sort(1).values - wanted[part]).square().mean(1).sum()
            (weight * miss - reward).backward()  # type: ignore[no-untyped-call]
        sgd.step()
        with torch.no_grad():
            values.clamp_(0, 1)
    with torch.no_grad():
        masks = torch.cat([smooth(values[part]) for part in parts])
    return masks.view(len(images), len(areas), *images.shape[-2:])


def _step_of_area(area: float, images: Tensor) -> Tensor:
    """What the sorted mask should be: 0 on the first `1 - area` of the pixels, then 1, `[H·W]`."""
    count = images.shape[-2] * images.shape[-1]
    return (torch.arange(count, device=images.device) >= round((1 - area) * count)).to(images)


class SmoothMaximum:
    """From values on a grid `[N, 1, h, w]` to masks `[N, 1, H, W]`.

    A pixel sees the grid points of the 9 × 9 cells around it (the kernel's radius and one more); what it lacks at the
    picture's border counts as 0. All pixels at the same place in their cell share their weights.
    """

    def __init__(self, images: Tensor) -> None:
        self.size = images.shape[-2:]
        scale = min(self.size) / SIDE
        self.step, sigma = max(1, round(STEP * scale)), SIGMA * scale
        self.radius = 1 + math.ceil(sigma / self.step)
        self.grid = tuple(math.ceil(side / self.step) for side in self.size)
        offsets = torch.arange(-self.radius, self.radius + 1, device=images.device) * self.step
        inside = torch.arange(self.step, device=images.device) - (self.step - 1) / 2
        along = (inside[None, :] - offsets[:, None]).square()  # from the neighbours to the places in a cell
        distance = (along[:, None, :, None] + along[None, :, None, :]).sqrt() / sigma
        weights = torch.exp(-2 * (distance - 0.5).clamp_min(0).square()).flatten(0, 1)
        self.weights = weights.to(images)  # [neighbours, step, step]

    def __call__(self, values: Tensor) -> Tensor:
        window = 2 * self.radius + 1
        near = F.unfold(values, window, padding=self.radius).unflatten(2, self.grid)
        masks: Tensor = _SmoothMaximum.apply(near, self.weights)  # type: ignore[no-untyped-call]
        masks = masks.permute(0, 3, 1, 4, 2).flatten(3, 4).flatten(1, 2)[:, : self.size[0], : self.size[1]]
        return masks.unsqueeze(1)


class _SmoothMaximum(torch.autograd.Function):
    """`S = Σ w softmax(20 w)`, `w` = value × weight, over the neighbours; `dS/dw = softmax(20 w) (1 + 20 (w - S))`.

    All neighbours of all pixels at once are 81 times the picture, several times over: neighbour by neighbour, with what
    the backward pass needs computed anew, takes a third of the time on a CPU. `exp(20 w)` is at most 5e8.

    Shape: values `[N, neighbours, h, w]`, weights `[neighbours, step, step]` to `[N, step, step, h, w]`.
    """

    @staticmethod
    def forward(ctx: Any, near: Tensor, weights: Tensor) -> Tensor:
        total = above = torch.zeros((), device=near.device)
        for value, weight in zip(near.unbind(1), weights, strict=True):
            weighted = value[:, None, None] * weight[..., None, None]
            share = (COLDNESS * weighted).exp_()
            total, above = total + share, above + weighted.mul_(share)
        result = above / total
        ctx.save_for_backward(near, weights, total, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        near, weights, total, result = ctx.saved_tensors
        scaled = gradient / total
        rest = scaled * (1 - COLDNESS * result)
        found = []
        for value, weight in zip(near.unbind(1), weights, strict=True):
            weighted = COLDNESS * value[:, None, None] * weight[..., None, None]
            slope = torch.addcmul(rest, scaled, weighted).mul_(weighted.exp_())
            found.append(torch.einsum("nyxhw,yx->nhw", slope, weight))
        return torch.stack(found, 1), None


def blur_pyramid(images: Tensor) -> Tensor:
    """The images from blurred (σ 20 px at 224) to sharp, `[B, 8, 3, H, W]`."""
    widths = [BLUR * min(images.shape[-2:]) / SIDE * (1 - level / (LEVELS - 1)) for level in range(LEVELS)]
    return torch.stack([gaussian_blur(images, width) if width > 0 else images for width in widths], 1)


def blended(pyramid: Tensor, masks: Tensor) -> Tensor:
    """Each pixel of `[N, 8, 3, H, W]` at the blur that the mask `[N, 1, H, W]` says, between levels linearly."""
    place = masks * (pyramid.shape[1] - 1)
    below = place.detach().floor().clamp(0, pyramid.shape[1] - 2)
    index = below.long()[:, None].expand(-1, -1, pyramid.shape[2], -1, -1)
    low, high = (pyramid.gather(1, index + up).squeeze(1) for up in (0, 1))
    return torch.lerp(low, high, place - below)
