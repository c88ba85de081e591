"""Modules that condition a mask network on the target class: a query, evidence of the class, and FiLM modulation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier


class ClassQuery(nn.Module):
    """Embeds the target class: the classifier's own head row, standardised, followed by a linear layer.

    A learned embedding replaces the rows if the classifier has no linear head.

    Shape: class indices `[B]` to `[B, width]`.
    """

    rows: Tensor

    def __init__(self, classifier: Classifier, width: int) -> None:
        super().__init__()
        rows = classifier.class_weights()
        if rows is None:
            self.rows = nn.Parameter(torch.randn(classifier.num_classes, width))
        else:
            rows = distinctive_part(classifier, rows)
            self.register_buffer("rows", rows / rows.std(1, keepdim=True).clamp_min(1e-6), persistent=False)
        self.project = nn.Linear(self.rows.shape[1], width)

    def forward(self, targets: Tensor) -> Tensor:
        query: Tensor = self.project(self.rows[targets])
        return query


def distinctive_part(classifier: Classifier, rows: Tensor) -> Tensor:
    """Head rows `[K, D]` minus the mean over the classes, which does not affect a softmax.

    The classes of a sigmoid head are independent: their rows are returned unchanged.
    """
    return rows - rows.mean(0) if classifier.head == "softmax" else rows


class ClassEvidence(nn.Module):
    """Product of each cell of the final map with the class's head row, standardised over the image.

    For a pooled linear head this is Grad-CAM's map (CAM). For a head that reads a class token, the map contains what
    each patch writes into that token (`ltx.classifier.class_token.written_into_token`). The evidence is zero if the
    widths of the map and the head differ.

    Shape: final map `[B, D, h, w]`, class indices `[B]` to `[B, 1, h, w]`.
    """

    rows: Tensor | None

    def __init__(self, classifier: Classifier, channels: int) -> None:
        super().__init__()
        rows = classifier.class_weights()
        fits = rows is not None and rows.shape[1] == channels
        used = distinctive_part(classifier, rows) if rows is not None and fits else None
        self.register_buffer("rows", used, persistent=False)

    def forward(self, final: Tensor, targets: Tensor) -> Tensor:
        if self.rows is None:
            return final.new_zeros(final.shape[0], 1, *final.shape[-2:])
        evidence = torch.einsum("bchw,bc->bhw", final, self.rows[targets]).unsqueeze(1)
        spread, centre = torch.std_mean(evidence, (2, 3), correction=min(1, evidence[0].numel() - 1), keepdim=True)
        return (evidence - centre) / (spread + 1e-6)


def evidence_skip(weight: float) -> nn.Conv2d:
    """A skip connection from the evidence to the mask logits, both `[B, 1, h, w]`: training starts at the evidence."""
    skip = nn.Conv2d(1, 1, kernel_size=1)
    nn.init.constant_(skip.weight, weight)
    assert skip.bias is not None
    nn.init.zeros_(skip.bias)
    return skip


class Modulation(nn.Module):
    """Feature-wise linear modulation of channels by a query (FiLM, Perez et al. 2018), close to the identity at first.

    Shape: `x [B, C, h, w]`, query `[B, width]` to `[B, C, h, w]`.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(width, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        scale, shift = self.affine(F.gelu(query))[:, :, None, None].chunk(2, 1)
        modulated: Tensor = x * (1 + scale) + shift
        return modulated
