"""Relevance carried from the head back to the patches through a chain of token-to-token matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.attribution.attention import attention_layers, captured, readout, unfused
from ltx.classifier.classifier import Classifier


def roll_out(relevances: Sequence[Tensor], start: Tensor, normalise: bool = True) -> Tensor:
    """Some rows of `(C_L + I) … (C_1 + I)`, or one mixture of them.

    Only those rows are carried: where the head reads one token, each block costs a vector times a matrix.

    Args:
        relevances: `C_1 … C_L`, `[B, N, N]` each, first block first.
        start: weights `[N]` of the tokens that the head reads, or several such rows `[R, N]`.
        normalise: divide each row of `C + I` by its sum (rollout); False = leave it (GAE).

    Returns:
        `[B, N]`, or `[B, R, N]`, float32.
    """
    rows = torch.atleast_2d(start).float().expand(relevances[0].shape[0], -1, -1)
    for matrix in reversed(relevances):
        matrix = matrix.float()
        if normalise:
            # row · (C + I) / rowsum(C + I), without forming C + I
            rows = rows / (matrix.sum(-1).unsqueeze(1) + 1)
        rows = rows + rows @ matrix
    return rows.squeeze(1) if start.ndim == 1 else rows


def patch_map(classifier: Classifier, tokens: Tensor, images: Tensor) -> Tensor:
    """Values of all tokens `[B, N]` → map of the patch tokens at the images' size, `[B, 1, H, W]`, bilinear."""
    patches = tokens[:, classifier.num_prefix_tokens :]
    grid = classifier.grid
    return F.interpolate(patches.unflatten(1, grid).unsqueeze(1), size=images.shape[-2:], mode="bilinear")


def attention_and_gradients(
    classifier: Classifier, images: Tensor, targets: Tensor | None
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Attention of every block and its gradient of the class logit, from one forward and one backward pass.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.

    Returns:
        Attention and gradients, `[B, heads, N, N]` float32 for each block, first to last, and where a rollout begins.
    """
    layers = attention_layers(classifier)
    with torch.enable_grad(), unfused(classifier.model), captured(layers) as attention:
        logits = classifier(images)
        chosen = logits.argmax(1) if targets is None else targets
        score = logits.gather(1, chosen[:, None]).sum()
        matrices = [attention[block] for block in range(len(layers))]
        gradients = torch.autograd.grad(score, matrices)
    start = readout(classifier, matrices[0].shape[-1])
    return [matrix.detach().float() for matrix in matrices], [gradient.float() for gradient in gradients], start


def positive_relevance(attention: Tensor, gradient: Tensor) -> Tensor:
    """`relu(A ∘ ∇A)`, mean over heads: `[B, heads, N, N]` → `[B, N, N]`."""
    return (attention * gradient).relu_().mean(1)
