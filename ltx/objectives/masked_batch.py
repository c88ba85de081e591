"""A batch of images with their masks: the input of the terms of an objective."""

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
    """Images, their masks, and what the terms of an objective compare them with.

    Attributes:
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1].
        background: fill for removed pixels, `[B, 3, H, W]`.
        targets: target classes, `[B]`.
        unmasked_logits: logits of the unmasked forward pass, `[B, K]`.
        scores: mask logits of the network, `[B, 1, h, w]`.
        mask: the mask at image resolution, `[B, 1, H, W]` in [0, 1], 1 = keep.
        generator: random generator of the terms, one for the batch or one per image; None = torch's default.
        shared_draws: draw once for the whole batch, so that an image's result does not depend on its neighbours.
        teacher: teacher maps that define the order of the scores, `[B, 1, h', w']`; constant for images without a
            teacher. None = no image has one.
        elsewhere: 1 at pixels of mosaics that belong to a photograph of another class than the target, else 0,
            `[B, 1, H, W]`. None = the batch has no mosaics.
        areas: requested area of each mask, `[B]`, for networks that take areas.
        allowed: pixels that a mask may keep, `[B, 1, H, W]` in [0, 1]; None = all of them.
        jitter: transform of the masked images `[N, 3, H, W]` before they are classified, or None.
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
        """Draw uniform numbers in [0, 1), `[B, *shape]`, on the images' device."""
        rows = 1 if self.shared_draws else self.images.shape[0]
        numbers = draw(torch.rand, rows, shape, self.generator, self.images)
        return numbers.expand(self.images.shape[0], *shape)


def classify(batch: MaskedBatch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Classify the masked image of each mask `[B, 1, H, W]` in one batch: logits `[B, K]` by the mask's name."""
    if not masks:
        return {}
    masked_images = keep(batch.images, torch.stack(list(masks.values())), batch.background).flatten(0, 1)
    if batch.jitter is not None:
        masked_images = batch.jitter(masked_images)
    rows = CPU_ROWS if masked_images.device.type == "cpu" else len(masked_images)
    logits = torch.cat([batch.classifier(part) for part in torch.split(masked_images, rows)])
    return dict(zip(masks, logits.chunk(len(masks)), strict=True))
