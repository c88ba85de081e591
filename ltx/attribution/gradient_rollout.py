"""Gradient Rollout: Attention Rollout with `relu(A ∘ ∇A)` in place of `A` (Barkan et al., ICCV 2023, IIA)."""

from __future__ import annotations

from torch import Tensor

from ltx.attribution.attention import attention_chain
from ltx.attribution.rollout import attention_and_gradients, patch_map, positive_relevance, roll_out
from ltx.classifier.classifier import Classifier


def gradient_rollout(classifier: Classifier, images: Tensor, targets: Tensor | None = None) -> Tensor:
    """Product over blocks of row-normalised `mean_heads(relu(A ∘ ∂f_y/∂A)) + I`.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.

    Returns:
        Non-negative maps `[B, 1, H, W]`.
    """
    attention, gradients = attention_and_gradients(classifier, images, targets)
    relevances = [positive_relevance(a, g) for a, g in zip(attention, gradients, strict=True)]
    return patch_map(classifier, roll_out(relevances, attention_chain(classifier).start), images)
