"""How a mask network is told which class it is asked about: a query, evidence of the class, and what they modulate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier


class ClassQuery(nn.Module):
    """The class asked about as a vector: the classifier's own head row, standardised, then a linear layer.

    Where the classifier has no linear head, a learned embedding stands in for its rows.

    Shape: class indices `[B]` to `[B, width]`.
    """

    rows: Tensor

    def __init__(self, classifier: Classifier, width: int) -> None:
        super().__init__()
        rows = classifier.class_weights()
        if rows is None:
            self.rows = nn.Parameter(torch.randn(classifier.num_classes, width))
        else:
            rows = own_part(classifier, rows)
            self.register_buffer("rows", rows / rows.std(1, keepdim=True).clamp_min(1e-6), persistent=False)
        self.project = nn.Linear(self.rows.shape[1], width)

    def forward(self, targets: Tensor) -> Tensor:
        return self.project(self.rows[targets])


def own_part(classifier: Classifier, rows: Tensor) -> Tensor:
    """Head rows `[K, D]` without what all classes share.

    A softmax does not see what is added to all logits. The classes of a sigmoid head are each on their own.
    """
    return rows - rows.mean(0) if classifier.head == "softmax" else rows


class ClassEvidence(nn.Module):
    """How well each place of the final map fits the class's head row: Grad-CAM's map for a pooled linear head (CAM),
    what each patch writes into the class token for a head that reads one
    (`ltx.classifier.feature_maps.written_into_token`).

    Standardised over the image; an all-zero channel where map and head differ in width.

    Shape: final map `[B, D, h, w]`, class indices `[B]` to `[B, 1, h, w]`.
    """

    rows: Tensor | None

    def __init__(self, classifier: Classifier, channels: int) -> None:
        super().__init__()
        rows = classifier.class_weights()
        fits = rows is not None and rows.shape[1] == channels
        own = own_part(classifier, rows) if rows is not None and fits else None
        self.register_buffer("rows", own, persistent=False)

    def forward(self, final: Tensor, targets: Tensor) -> Tensor:
        if self.rows is None:
            return final.new_zeros(final.shape[0], 1, *final.shape[-2:])
        evidence = torch.einsum("bchw,bc->bhw", final, self.rows[targets]).unsqueeze(1)
        spread, centre = torch.std_mean(evidence, (2, 3), correction=min(1, evidence[0].numel() - 1), keepdim=True)
        return (evidence - centre) / (spread + 1e-6)


def evidence_skip(weight: float) -> nn.Conv2d:
    """From a class's evidence to mask logits, both `[B, 1, h, w]`: with it, training begins at that evidence."""
    skip = nn.Conv2d(1, 1, kernel_size=1)
    nn.init.constant_(skip.weight, weight)
    assert skip.bias is not None
    nn.init.zeros_(skip.bias)
    return skip


class Modulation(nn.Module):
    """Feature-wise linear modulation (FiLM, Perez et al. 2018) of channels by a query vector; starts as the identity.

    Shape: `x [B, C, h, w]`, query `[B, width]` to `[B, C, h, w]`.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(width, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        scale, shift = self.affine(F.gelu(query))[:, :, None, None].chunk(2, 1)
        return x * (1 + scale) + shift
