"""Attention Rollout (Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.attribution.attention import attention_layers, captured, readout, unfused
from ltx.attribution.rollout import patch_map, roll_out
from ltx.classifier.classifier import Classifier


def attention_rollout(classifier: Classifier, images: Tensor, targets: Tensor | None = None) -> Tensor:
    """Product over blocks of row-normalised `A + I`, with `A` the attention averaged over heads.

    The map does not depend on the class.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: ignored.

    Returns:
        Non-negative maps `[B, 1, H, W]`.
    """
    layers = attention_layers(classifier)
    with torch.no_grad(), unfused(classifier.model), captured(layers) as attention:
        classifier(images)
    means = [attention[block].float().mean(1) for block in range(len(layers))]
    return patch_map(classifier, roll_out(means, readout(classifier, means[0].shape[-1])), images)
