"""Grad-CAM++ (Chattopadhay et al., WACV 2018)."""

from __future__ import annotations

from torch import Tensor

from ltx.attribution.feature_layers import activation_and_gradient, chosen_layers, enlarge
from ltx.classifier.classifier import Classifier


def gradcam_plus_plus(
    classifier: Classifier, images: Tensor, targets: Tensor | None = None, *, layer: str | int | None = None
) -> Tensor:
    """`relu(Σ_c w_c A_c)`, `w_c = Σ_ij α relu(g)`, `α = g² / (2 g² + g³ Σ_ab A)` (their eq. 19, for `Y = exp(f_y)`).

    The factor `exp(f_y)` of the weights is the same for all channels of an image and is left out.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: classes `[B]`; None = the predicted ones.
        layer: name of the layer; None = the map that the head pools (ViT: the tokens that enter the last block).

    Returns:
        `[B, 1, H, W]`, at least 0.
    """
    (chosen,) = chosen_layers(classifier, layer, 1)
    activation, gradient = activation_and_gradient(classifier, chosen, images, targets)
    # g² cancels from the fraction; what is left is 0/0 only where 2 + g ΣA is 0.
    below = 2 + gradient * activation.sum((2, 3), keepdim=True)
    alpha = (gradient != 0) / below.where(below != 0, 1)
    weights = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    return enlarge((weights * activation).sum(1, keepdim=True).relu(), images)
