"""Attention Rollout (Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.attribution.attention import attention_chain
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
    chain = attention_chain(classifier)
    with torch.no_grad(), chain.captured() as attention:
        classifier(images)
    means = [attention[block].float().mean(1) for block in range(len(chain))]
    return patch_map(classifier, roll_out(means, chain.start), images)
