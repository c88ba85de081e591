"""Agreement of explanations between networks with different random initialisations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from ltx.classifier.class_names import Targets
from ltx.explainers.mask_network import MaskNetwork, checked_images
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes


@dataclass
class Stability:
    """Agreement between networks with different seeds.

    Attributes:
        masks: mask of each seed, image and area, `[S, B, A, H, W]`.
        consensus: mean over the seeds, `[B, A, H, W]`.
        spread: standard deviation over the seeds, `[B, A, H, W]`.
        agreement: intersection over union of the masks of two seeds, thresholded at 0.5, averaged over all pairs,
            `[B, A]`; 1 = equal.
    """

    masks: Tensor
    consensus: Tensor
    spread: Tensor
    agreement: Tensor


@takes(allowed="real [B, 1, H, W]")
def stability(
    starts: Sequence[MaskNetwork],
    images: Tensor,
    targets: Targets = None,
    compared: Sequence[float] = (0.05, 0.1, 0.2),
    steps: int = 25,
    settings: FinetuneSettings | None = None,
    *,
    allowed: Tensor | None = None,
) -> Stability:
    """Fit several networks to each image at once, and compare their masks.

    The paper reports the dependence on the initialisation as a limitation (Byra & Skibbe, WACV 2025).

    Args:
        starts: one network per seed, with different parameters and otherwise equal; see
            `ltx.attribution.inr.fresh_inr`.
        images: `[B, 3, H, W]` in [0, 1].
        targets: target classes; None = the predicted ones.
        compared: areas of the compared masks.
        steps: optimiser steps; see `ltx.finetune`.
        settings: see `ltx.finetune`; None = the defaults with `max_batch=64`. The random draws of finetuning are the
            same for all networks, so that only the initialisation differs.
        allowed: `[B, 1, H, W]` in [0, 1], pixels that a mask may keep; None = all of them.

    Raises:
        InputError: there are fewer than two networks, or some take no areas; or see `ltx.finetune`.
    """
    settings = FinetuneSettings(max_batch=64) if settings is None else settings
    seeds = len(starts)
    if seeds < 2 or not all(network.takes_areas for network in starts):
        raise InputError(f"stability compares two or more networks that take areas (inr); {seeds} given")
    classifier = starts[0].classifier
    images = checked_images(classifier, images)
    with torch.no_grad():
        logits = torch.cat([classifier(part) for part in torch.split(images, settings.max_batch)])
        classes = classifier.targets(targets, logits)
    by_area = finetune(
        starts[0],
        images.repeat(seeds, 1, 1, 1),
        classes.repeat(seeds),
        steps,
        settings,
        starts=[network for network in starts for _ in images],
        allowed=None if allowed is None else allowed.repeat(seeds, 1, 1, 1),
    ).by_area
    assert by_area is not None
    masks = torch.unflatten(by_area(compared), 0, (seeds, len(images)))
    kept = masks >= 0.5
    overlaps = [
        (kept[a] & kept[b]).sum((-2, -1)) / (kept[a] | kept[b]).sum((-2, -1)).clamp_min(1)
        for a, b in combinations(range(seeds), 2)
    ]
    spread, consensus = torch.std_mean(masks, 0)
    return Stability(masks, consensus, spread, torch.stack(overlaps).mean(0))
