"""A batch of images with their masks, as the terms of an objective see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ltx.classifier.classifier import CPU_ROWS, Classifier
from ltx.masking.fill import keep
from ltx.runtime.seeds import Source, draw


@dataclass
class MaskedBatch:
    """A batch under explanation.

    Attributes:
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1].
        background: what removed pixels become, `[B, 3, H, W]`.
        targets: the classes asked about, `[B]`.
        unmasked_logits: the classifier's logits for the whole images, `[B, K]`.
        scores: the network's mask logits, `[B, 1, h, w]`.
        mask: the visible mask, `[B, 1, H, W]` in [0, 1], 1 = keep.
        generator: source of every random draw of the terms, one or one for each image; or None.
        shared_draws: draw once for the whole batch, so that no image's result depends on its neighbours.
        teacher: maps whose order the scores should have, `[B, 1, h', w']`, constant where an image has no teacher; None
            = no image has one.
        elsewhere: where the images show a photograph of another class than the one asked about, `[B, 1, H, W]` of 0
            and 1, in a batch that holds mosaics; None = nothing is known of that.
        areas: the area that each mask was asked for, `[B]`, where the network takes one.
        allowed: which pixels a mask may keep, `[B, 1, H, W]` in [0, 1]; None = all of them.
        jitter: what moves the masked images `[N, 3, H, W]` before they are classified, or None.
    """

    classifier: Classifier
    images: Tensor
    background: Tensor
    targets: Tensor
    unmasked_logits: Tensor
    scores: Tensor
    mask: Tensor
    generator: Source = None
    shared_draws: bool = False
    teacher: Tensor | None = None
    elsewhere: Tensor | None = None
    areas: Tensor | None = None
    allowed: Tensor | None = None
    jitter: Callable[[Tensor], Tensor] | None = None

    def uniform(self, *shape: int) -> Tensor:
        """Uniform draws in [0, 1), `[B, *shape]` on the images' device."""
        rows = 1 if self.shared_draws else self.images.shape[0]
        drawn = draw(torch.rand, rows, shape, self.generator, self.images)
        return drawn.expand(self.images.shape[0], *shape)


def classify(batch: MaskedBatch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits `[B, K]` of the masked image under each mask `[B, 1, H, W]`, each classified once."""
    if not masks:
        return {}
    masked_images = torch.cat([keep(batch.images, mask, batch.background) for mask in masks.values()])
    if batch.jitter is not None:
        masked_images = batch.jitter(masked_images)
    rows = CPU_ROWS if masked_images.device.type == "cpu" else len(masked_images)
    logits = torch.cat([batch.classifier(part) for part in masked_images.split(rows)])
    return dict(zip(masks, logits.chunk(len(masks)), strict=True))
