"""How much an explanation depends on the network's random start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from ltx.classifier.class_names import Targets
from ltx.explainers.mask_network import MaskNetwork, checked
from ltx.finetuning.finetune import finetune
from ltx.runtime.errors import InputError


@dataclass
class Stability:
    """What networks that were started from several seeds agree on.

    Attributes:
        masks: of each seed and area, `[S, B, A, H, W]`.
        consensus: their mean over the seeds, `[B, A, H, W]`.
        spread: their standard deviation, `[B, A, H, W]`.
        agreement: intersection over union of two seeds' masks at one half, mean over the pairs, `[B, A]`; 1 = equal.
    """

    masks: Tensor
    consensus: Tensor
    spread: Tensor
    agreement: Tensor


def stability(
    starts: Sequence[MaskNetwork],
    images: Tensor,
    targets: Targets = None,
    compared: Sequence[float] = (0.05, 0.1, 0.2),
    max_batch: int = 64,
    allowed: Tensor | None = None,
    **options: object,
) -> Stability:
    """Fit several networks to each image, all of them side by side, and compare their masks.

    The paper states the dependence on the start as a cost of its method (Byra & Skibbe, WACV 2025).

    Args:
        starts: one network a seed, equal but for their parameters; see `ltx.attribution.inr.fresh_inr`.
        images: `[B, 3, H, W]` in [0, 1].
        targets: the classes asked about; None = predicted.
        compared: areas of the masks that are compared.
        max_batch: images of one pass, at most.
        allowed: `[B, 1, H, W]` in [0, 1], which pixels a mask may keep; None = all of them.
        options: the others of `ltx.finetune`, but names. Its draws are the same for all seeds: the start differs.

    Raises:
        InputError: fewer than two networks, or networks that take no areas.
    """
    seeds = len(starts)
    if seeds < 2 or not all(network.takes_areas for network in starts):
        raise InputError(f"stability compares two or more networks that take areas (inr); {seeds} given")
    classifier = starts[0].classifier
    images = checked(classifier, images)
    with torch.no_grad():
        logits = torch.cat([classifier(part) for part in images.split(max_batch)])
        chosen = classifier.targets(targets, logits)
    found = finetune(
        starts[0],
        images.repeat(seeds, 1, 1, 1),
        chosen.repeat(seeds),
        starts=[network for network in starts for _ in images],
        max_batch=max_batch,
        allowed=None if allowed is None else allowed.repeat(seeds, 1, 1, 1),
        **options,  # type: ignore[arg-type]
    ).by_area
    assert found is not None
    masks = found(compared).unflatten(0, (seeds, len(images)))
    kept = masks >= 0.5
    overlaps = [
        (kept[a] & kept[b]).sum((-2, -1)) / (kept[a] | kept[b]).sum((-2, -1)).clamp_min(1)
        for a, b in combinations(range(seeds), 2)
    ]
    spread, consensus = torch.std_mean(masks, 0)
    return Stability(masks, consensus, spread, torch.stack(overlaps).mean(0))
