"""Grad-CAM++ (Chattopadhay et al., WACV 2018)."""

from __future__ import annotations

from torch import Tensor

from ltx.attribution.feature_layers import activation_and_gradient, select_layers, upsample
from ltx.classifier.classifier import Classifier


def gradcam_plus_plus(
    classifier: Classifier, images: Tensor, targets: Tensor | None = None, *, layer: str | int | None = None
) -> Tensor:
    """`relu(Σ_c w_c A_c)`, `w_c = Σ_ij α relu(g)`, `α = g² / (2 g² + g³ Σ_ab A)` (their eq. 19, for `Y = exp(f_y)`).

    The factor `exp(f_y)` of the weights is the same for all channels of an image and is omitted.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        layer: module name; None = the feature map that the head pools (ViT: `norm1` of the last block).

    Returns:
        Non-negative maps `[B, 1, H, W]`.
    """
    (feature_layer,) = select_layers(classifier, layer, 1)
    activation, gradient = activation_and_gradient(classifier, feature_layer, images, targets)
    # g² cancels from the fraction; the remainder is 0/0 only where 2 + g ΣA is 0.
    denominator = 2 + gradient * activation.sum((2, 3), keepdim=True)
    alpha = (gradient != 0) / denominator.where(denominator != 0, 1)
    weights = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    return upsample((weights * activation).sum(1, keepdim=True).relu(), images)
