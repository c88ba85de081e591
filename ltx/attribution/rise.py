"""RISE (Petsiuk, Das & Saenko, BMVC 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.runtime.devices import send
from ltx.runtime.errors import InputError
from ltx.runtime.seeds import seeded


def rise(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    masks: int = 4000,
    cells: int = 8,
    keep: float = 0.5,
    seed: int = 0,
    max_batch: int = 64,
) -> Tensor:
    """`Σ_i p_y(x ∘ m_i) m_i / (N E[m])` over random masks, each a coarse random grid, upsampled and shifted.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        masks: number `N` of masks, shared by all images (the paper uses 4,000 for VGG and 8,000 for ResNet-50).
        cells: grid cells along each side.
        keep: probability `E[m]` that a cell is kept.
        seed: random seed.
        max_batch: maximum batch size of a forward pass.

    Returns:
        Non-negative maps `[B, 1, H, W]`.

    Raises:
        InputError: `masks` or `cells` is not positive, or `keep` is outside (0, 1).
    """
    if masks < 1 or cells < 1 or not 0 < keep < 1:
        raise InputError(
            f"masks={masks}, cells={cells}, keep={keep}; the first two are positive, keep is within (0, 1)"
        )
    classes = explained_classes(classifier, images, targets, max_batch)
    generator = seeded(seed)
    total = torch.zeros_like(images[:, 0], dtype=torch.float32).flatten(1)
    chunk = max(1, max_batch // len(images))
    with torch.no_grad():
        for begin in range(0, masks, chunk):
            count = min(chunk, masks - begin)
            batch = send(torch.stack([_mask(images.shape[-2:], cells, keep, generator) for _ in range(count)]), images)
            rows = (batch[:, None] * images[None]).flatten(0, 1)
            probability = classifier.probabilities(classifier(rows)).gather(1, classes.repeat(count)[:, None])
            total += probability.view(count, -1).T @ batch.flatten(1).float()
    return (total / (masks * keep)).view(len(images), 1, *images.shape[-2:])


def _mask(size: torch.Size, cells: int, keep: float, generator: torch.Generator) -> Tensor:
    """One mask `[1, H, W]`: a random window of a grid upsampled to one cell more than the image in each dimension."""
    cell = [-(-side // cells) for side in size]
    grid = (torch.rand(1, 1, cells, cells, generator=generator) < keep).float()
    large = F.interpolate(grid, size=[(cells + 1) * c for c in cell], mode="bilinear", align_corners=False)[0]
    top, left = (int(torch.randint(0, c, (), generator=generator)) for c in cell)
    return large[:, top : top + size[0], left : left + size[1]].clamp(0, 1)  # rounding
