"""Relevance propagated from the head back to the patches through a chain of token-to-token matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.attribution.attention import attention_chain
from ltx.classifier.classifier import Classifier


def roll_out(relevances: Sequence[Tensor], start: Tensor, normalise: bool = True) -> Tensor:
    """Rows of `(C_L + I) … (C_1 + I)`, or a weighted sum of rows.

    Only these rows are propagated: each block costs a product of a vector and a matrix if the head reads one token.

    Args:
        relevances: `C_1 … C_L`, `[B, N, N]` each, first block first. `C_L` may have fewer rows, `[B, P, N]`, if `start`
            is zero for the other tokens.
        start: weights `[N]` of the rows, or `R` such vectors `[R, N]`.
        normalise: divide each row of `C + I` by its sum (rollout); False = do not (GAE).

    Returns:
        `[B, N]`, or `[B, R, N]`, float32.
    """
    rows: Tensor = torch.atleast_2d(start).float().expand(relevances[0].shape[0], -1, -1)
    tokens = rows.shape[-1]
    for matrix in reversed(relevances):
        matrix, rows = matrix.float(), rows[..., : matrix.shape[-2]]
        if normalise:
            # row · (C + I) / rowsum(C + I), without forming C + I
            rows = rows / (matrix.sum(-1).unsqueeze(1) + 1)
        rows = F.pad(rows, (0, tokens - rows.shape[-1])) + rows @ matrix
    return rows[:, 0] if start.ndim == 1 else rows


def patch_map(classifier: Classifier, tokens: Tensor, images: Tensor) -> Tensor:
    """Upsample values of all tokens `[B, N]` bilinearly to a map of the patch tokens `[B, 1, H, W]`."""
    patches = tokens[:, classifier.num_prefix_tokens :]
    grid = classifier.grid
    return F.interpolate(patches.unflatten(1, grid).unsqueeze(1), size=images.shape[-2:], mode="bilinear")


def attention_and_gradients(
    classifier: Classifier, images: Tensor, targets: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Attention of every block and the gradient of the class logit, from one forward and one backward pass.

    Args:
        classifier: a vision transformer.
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.

    Returns:
        Attention and gradients, `[B, heads, N, N]` float32 for each block, first to last.
    """
    chain = attention_chain(classifier)
    with torch.enable_grad(), chain.captured() as attention:
        logits = classifier(images)
        classes = logits.argmax(1) if targets is None else targets
        score = logits.gather(1, classes[:, None]).sum()
        matrices = [attention[block] for block in range(len(chain))]
        gradients = torch.autograd.grad(score, matrices)
    return [matrix.detach().float() for matrix in matrices], [gradient.float() for gradient in gradients]


def positive_relevance(attention: Tensor, gradient: Tensor) -> Tensor:
    """`relu(A ∘ ∇A)`, averaged over heads: `[B, heads, N, N]` → `[B, N, N]`."""
    return (attention * gradient).relu_().mean(1)
