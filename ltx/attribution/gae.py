"""GAE, Generic Attention Explainability (Chefer, Gur & Wolf, ICCV 2021), for self-attention."""

from __future__ import annotations

from torch import Tensor

from ltx.attribution.attention import attention_chain
from ltx.attribution.rollout import attention_and_gradients, patch_map, positive_relevance, roll_out
from ltx.classifier.classifier import Classifier


def gae(classifier: Classifier, images: Tensor, targets: Tensor | None = None) -> Tensor:
    """Iterate `R ← R + C R` over the blocks from `R = I`, with `C = mean_heads(relu(A ∘ ∂f_y/∂A))`.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.

    Returns:
        Non-negative maps `[B, 1, H, W]`, taken from the rows of `R` of the tokens that the head reads.
    """
    attention, gradients = attention_and_gradients(classifier, images, targets)
    relevances = [positive_relevance(a, g) for a, g in zip(attention, gradients, strict=True)]
    return patch_map(classifier, roll_out(relevances, attention_chain(classifier).start, normalise=False), images)
