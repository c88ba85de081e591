"""Extremal perturbation as published: one image at a time, its areas in one batch."""

from __future__ import annotations

import torch

from ltx.attribution.extremal_perturbation import extremal_masks
from ltx.bench.peers.pair import Inputs, Pair, largest_difference

AREAS = [0.05, 0.1, 0.2]
STEPS = 3


def extremal_perturbation(inputs: Inputs) -> Pair:
    """All images and areas in one batch, next to the published loop over images."""
    classifier, images, targets = inputs.classifier, inputs.images, inputs.targets

    def loop() -> torch.Tensor:
        masks = [
            extremal_masks(classifier, x[None], y[None], AREAS, STEPS) for x, y in zip(images, targets, strict=True)
        ]
        return torch.cat(masks)

    return Pair(
        lambda: extremal_masks(classifier, images, targets, AREAS, STEPS),
        loop,
        f"{STEPS} of the 800 published steps, {len(AREAS)} areas; the loop explains one image at a time "
        "(transcription: TorchRay is not on PyPI)",
        largest_difference,
    )
