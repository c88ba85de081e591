"""Grad-CAM (Selvaraju et al., ICCV 2017)."""

from __future__ import annotations

from torch import Tensor

from ltx.attribution.feature_layers import activation_and_gradient, chosen_layers, enlarge
from ltx.classifier.classifier import Classifier


def gradcam(
    classifier: Classifier, images: Tensor, targets: Tensor | None = None, *, layer: str | int | None = None
) -> Tensor:
    """`relu(Σ_c w_c A_c)`, `w_c` the mean over positions of `∂f_y/∂A_c`.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: classes `[B]`; None = the predicted ones.
        layer: name of the layer; None = the map that the head pools (ViT: the tokens that enter the last block).

    Returns:
        `[B, 1, H, W]`, at least 0.
    """
    (chosen,) = chosen_layers(classifier, layer, 1)
    activation, gradient = activation_and_gradient(classifier, chosen, images, targets)
    weights = gradient.mean((2, 3), keepdim=True)
    return enlarge((weights * activation).sum(1, keepdim=True).relu(), images)
