"""Grad-CAM (Selvaraju et al., ICCV 2017)."""

from __future__ import annotations

from torch import Tensor

from ltx.attribution.feature_layers import activation_and_gradient, select_layers, upsample
from ltx.classifier.classifier import Classifier


def gradcam(
    classifier: Classifier, images: Tensor, targets: Tensor | None = None, *, layer: str | int | None = None
) -> Tensor:
    """`relu(Σ_c w_c A_c)`, with `w_c` the mean of `∂f_y/∂A_c` over positions.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        layer: module name; None = the feature map that the head pools (ViT: `norm1` of the last block).

    Returns:
        Non-negative maps `[B, 1, H, W]`.
    """
    (feature_layer,) = select_layers(classifier, layer, 1)
    activation, gradient = activation_and_gradient(classifier, feature_layer, images, targets)
    weights = gradient.mean((2, 3), keepdim=True)
    return upsample((weights * activation).sum(1, keepdim=True).relu(), images)
