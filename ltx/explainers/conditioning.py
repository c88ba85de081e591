"""Modules that condition a mask network on the target class: a query, evidence of the class, and FiLM modulation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.classifier.feature_maps import Features


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


@dataclass(frozen=True)
class EvidenceStart:
    """The class's evidence at which training starts.

    Attributes:
        weight: its initial weight in the logits; None = the network's default.
        values: whether it also comes from the values of the class token's attention, see `ClassEvidence`.
    """

    weight: float | None = None
    values: bool = True


class ClassEvidence(nn.Module):
    """Product of each cell of the final map with the class's head row, standardised over the image.

    For a pooled linear head this is Grad-CAM's map (CAM). For a head that reads a class token, the map contains what
    each patch writes into that token (`ltx.classifier.class_token.written_into_token`). `Features.values`, what it
    would write without the weights of the attention, is evidence of its own, which varies less from patch to patch and
    tells classes apart better. With it, there are two maps: the mean of both kinds of evidence, and that mean averaged
    over neighbouring patches. The evidence is zero if the widths of the map and the head differ.

    Shape: features with maps `[B, D, h, w]`, class indices `[B]` to `[B, E, h, w]`, `E` = 2 with values, otherwise 1.
    """

    rows: Tensor | None

    def __init__(self, classifier: Classifier, channels: int) -> None:
        super().__init__()
        rows = classifier.class_weights()
        fits = rows is not None and rows.shape[1] == channels
        used = distinctive_part(classifier, rows) if rows is not None and fits else None
        self.register_buffer("rows", used, persistent=False)

    def forward(self, features: Features, targets: Tensor) -> Tensor:
        maps = [features.final, *features.values]
        if self.rows is None:
            return torch.cat([torch.zeros_like(each[:, :1]) for each in maps], 1)
        rows = self.rows[targets]
        products = [standardised(torch.einsum("bchw,bc->bhw", each, rows).unsqueeze(1)) for each in maps]
        if len(products) == 1:
            return products[0]
        evidence = standardised(torch.stack(products).mean(0))
        smooth = F.avg_pool2d(evidence, 3, stride=1, padding=1, count_include_pad=False)
        return torch.cat([evidence, standardised(smooth)], 1)


def standardised(maps: Tensor) -> Tensor:
    """Maps `[B, 1, h, w]` with mean 0 and standard deviation 1 over the positions."""
    spread, centre = torch.std_mean(maps, (2, 3), correction=min(1, maps[0].numel() - 1), keepdim=True)
    return (maps - centre) / (spread + 1e-6)


def evidence_skip(weight: float | None, default: float, maps: int) -> nn.Conv2d:
    """A skip connection from the evidence `[B, E, h, w]` to the mask logits `[B, 1, h, w]`: training starts there.

    Args:
        weight: weight of the evidence, of which all maps have equal shares at first; None = `default`.
        default: the network's default.
        maps: number `E` of maps.
    """
    skip = nn.Conv2d(maps, 1, kernel_size=1)
    set_evidence_weight(skip, default if weight is None else weight)
    assert skip.bias is not None
    nn.init.zeros_(skip.bias)
    return skip


def set_evidence_weight(skip: nn.Conv2d, weight: float) -> None:
    """Give all maps of evidence equal shares of a weight."""
    nn.init.constant_(skip.weight, weight / skip.in_channels)


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
