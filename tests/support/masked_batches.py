"""Batches of 8 × 8 images with masks, for a classifier whose logits can be computed by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltx import Classifier
from ltx.objectives.masked_batch import MaskedBatch, classify
from ltx.objectives.terms import Term


class Corners(nn.Module):
    """Two logits, 10 × the mean red value of the left and of the right half; counts the images that it classifies."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.classified = 0

    def forward(self, x: Tensor) -> Tensor:
        self.classified += len(x)
        half = x.shape[-1] // 2
        return 10 * torch.stack([x[:, 0, :, :half].mean((1, 2)), x[:, 0, :, half:].mean((1, 2))], 1)


def batch_for(mask: Tensor, head: str = "softmax", target: int = 0) -> MaskedBatch:
    """White images under masks `[B, 1, 8, 8]`, on a black background; the scores have a grid of 4 × 4."""
    classifier = Classifier(Corners(), input_size=8, head=head)
    images = torch.ones(len(mask), 3, 8, 8)
    scores = torch.nn.functional.interpolate(torch.logit(mask, eps=1e-6), (4, 4), mode="nearest")
    return MaskedBatch(
        classifier=classifier,
        images=images,
        background=torch.zeros_like(images),
        targets=torch.full((len(mask),), target),
        unmasked_logits=classifier(images),
        scores=scores,
        mask=mask,
        generator=torch.Generator().manual_seed(0),
    )


def left_half() -> Tensor:
    """A mask `[1, 1, 8, 8]` that keeps the left half."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    return mask


def value(term: Term, batch: MaskedBatch) -> float:
    """The value of a term for a batch of one image, from the classified masked images."""
    masks = term.masks(batch)
    assert masks is not None
    return float(term(batch, classify(batch, masks)))
