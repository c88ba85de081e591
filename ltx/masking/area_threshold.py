"""Masks with a prescribed area, by thresholding scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltx.runtime.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

HALVINGS = 18
"""Bisection steps of the threshold search."""

CPU_VALUES = 2**20
"""Mask values processed at once on a CPU, so that the search, which reads them 18 times, stays in the caches."""


def masks_of_area(scores: Tensor, areas: Tensor, temperature: float, allowed: Tensor | None = None) -> Tensor:
    """Compute `sigmoid((s - t) / temperature)` with the threshold `t` for which the mask's mean equals the area.

    Extremal perturbations (Fong et al. 2019) penalise deviations from the area; here the area is a hard constraint.
    `t` is found by bisection. A final Newton step makes gradients account for its dependence on the scores (implicit
    function theorem: higher scores at the mask's border raise the threshold and lower the mask elsewhere). For the
    same scores, a mask of smaller area is contained in a mask of larger area.

    Args:
        scores: `[B, A, H, W]`, at the image's resolution.
        areas: `[B, A]` in (0, 1), as fractions of the image; clipped to 99.9 % of the allowed area.
        temperature: softness of the border, in units of the scores.
        allowed: `[B, 1, H, W]` in [0, 1], the pixels that a mask may keep; None = all pixels.

    Returns:
        `[B, A, H, W]` in [0, 1].
    """
    rows = max(1, CPU_VALUES // max(1, scores[:1].numel()))
    # An exported graph has no fixed number of rows, and its runtime divides the work itself.
    if scores.device.type == "cpu" and not torch.compiler.is_exporting() and len(scores) > rows:
        limits = [None] * len(areas.split(rows)) if allowed is None else allowed.split(rows)
        chunks = zip(scores.split(rows), areas.split(rows), limits, strict=True)
        return torch.cat([masks_of_area(chunk, area, temperature, limit) for chunk, area, limit in chunks])
    if allowed is not None:
        areas = torch.minimum(areas, 0.999 * allowed.mean((2, 3)))
    target = areas[:, :, None, None]
    with torch.no_grad():
        low = scores.amin((2, 3), keepdim=True) - 16 * temperature
        high = scores.amax((2, 3), keepdim=True) + 16 * temperature
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            mask = _sigmoid(scores, middle, temperature, allowed)
            too_large = mask.mean((2, 3), keepdim=True) > target
            low, high = torch.where(too_large, middle, low), torch.where(too_large, high, middle)
        threshold = (low + high) / 2
        mask = ((scores - threshold) / temperature).sigmoid_()
        slope = mask * (1 - mask) if allowed is None else mask * (1 - mask) * allowed
        slope = slope.mean((2, 3), keepdim=True).clamp_min(1e-6) / temperature
        width = high - low
    step = (_sigmoid(scores, threshold, temperature, allowed).mean((2, 3), keepdim=True) - target) / slope
    # The step's value stays within the last bisection interval; its gradient is that of the threshold.
    step = step + (step.detach().clamp(-width, width) - step.detach())
    return _sigmoid(scores, threshold + step, temperature, allowed)


def _sigmoid(scores: Tensor, threshold: Tensor, temperature: float, allowed: Tensor | None) -> Tensor:
    mask = ((scores - threshold) / temperature).sigmoid()
    return mask if allowed is None else mask * allowed
