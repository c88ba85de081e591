"""Masks of exactly the area asked for, by a threshold on scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltx.runtime.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

HALVINGS = 18

CPU_VALUES = 2**20
"""Values of masks that a CPU seeks thresholds for at once: the search reads them 18 times, out of its caches if few."""


def masks_of_area(scores: Tensor, areas: Tensor, temperature: float, allowed: Tensor | None = None) -> Tensor:
    """`sigmoid((s - t) / temperature)` with the threshold `t` at which the mask's mean is the area.

    Where the extremal perturbations (Fong et al. 2019) only penalise another area, here none is possible: `t` is found
    by bisection, and a last Newton step lets gradients see that it moves with the scores (the implicit function
    theorem: raising the scores at the mask's border raises the threshold and so lowers the mask elsewhere). With the
    same scores for two areas, the smaller mask lies inside the larger one.

    Args:
        scores: `[B, A, H, W]`, on the visible image.
        areas: `[B, A]` in (0, 1); at most what is allowed.
        temperature: softness of the border, in the scores' unit.
        allowed: `[B, 1, H, W]` in [0, 1], which pixels a mask may keep; None = all of them.

    Returns:
        `[B, A, H, W]` in [0, 1].
    """
    rows = max(1, CPU_VALUES // max(1, scores[:1].numel()))
    if scores.device.type == "cpu" and len(scores) > rows:
        free = [None] * len(areas.split(rows)) if allowed is None else allowed.split(rows)
        parts = zip(scores.split(rows), areas.split(rows), free, strict=True)
        return torch.cat([masks_of_area(part, asked, temperature, own) for part, asked, own in parts])
    if allowed is not None:
        areas = torch.minimum(areas, 0.999 * allowed.mean((2, 3)))
    wanted = areas[:, :, None, None]
    with torch.no_grad():
        low = scores.amin((2, 3), keepdim=True) - 16 * temperature
        high = scores.amax((2, 3), keepdim=True) + 16 * temperature
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            mask = _sigmoid(scores, middle, temperature, allowed)
            too_large = mask.mean((2, 3), keepdim=True) > wanted
            low, high = torch.where(too_large, middle, low), torch.where(too_large, high, middle)
        threshold = (low + high) / 2
        mask = ((scores - threshold) / temperature).sigmoid_()
        slope = mask * (1 - mask) if allowed is None else mask * (1 - mask) * allowed
        slope = slope.mean((2, 3), keepdim=True).clamp_min(1e-6) / temperature
        width = high - low
    step = (_sigmoid(scores, threshold, temperature, allowed).mean((2, 3), keepdim=True) - wanted) / slope
    # The step's value is within the bisection's last interval; its gradient is the threshold's.
    step = step + (step.detach().clamp(-width, width) - step.detach())
    return _sigmoid(scores, threshold + step, temperature, allowed)


def _sigmoid(scores: Tensor, threshold: Tensor, temperature: float, allowed: Tensor | None) -> Tensor:
    mask = ((scores - threshold) / temperature).sigmoid()
    return mask if allowed is None else mask * allowed
