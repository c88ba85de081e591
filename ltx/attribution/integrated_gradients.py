"""Integrated Gradients (Sundararajan, Taly & Yan, ICML 2017), with captum."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError


def integrated_gradients(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    steps: int = 50,
    max_batch: int = 64,
) -> Tensor:
    """`x ∘ ∫ ∂f_y/∂x (a x) da` from a black baseline, summed over channels, by Gauss–Legendre quadrature.

    Signed. The sum over positions is `f_y(x) - f_y(black)` (completeness), up to the quadrature error.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        steps: number of quadrature nodes.
        max_batch: maximum batch size of a forward pass.

    Returns:
        `[B, 1, H, W]`.

    Raises:
        InputError: `steps` is not positive.
    """
    if steps < 1:
        raise InputError(f"steps={steps}; give at least one node")
    from captum.attr import IntegratedGradients  # slow to import

    classes = explained_classes(classifier, images, targets, max_batch)
    with torch.enable_grad():
        attributions: Tensor = IntegratedGradients(classifier).attribute(
            images, baselines=0.0, target=classes, n_steps=steps, internal_batch_size=max(max_batch, len(images))
        )
    return attributions.detach().float().sum(1, keepdim=True)
