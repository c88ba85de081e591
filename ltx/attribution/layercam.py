"""LayerCAM (Jiang et al., IEEE TIP 2021)."""

from __future__ import annotations

from torch import Tensor

from ltx.attribution.feature_layers import activation_and_gradient, chosen_layers, enlarge
from ltx.classifier.classifier import Classifier


def layercam(
    classifier: Classifier, images: Tensor, targets: Tensor | None = None, *, layer: str | int | None = None
) -> Tensor:
    """`relu(Σ_c relu(∂f_y/∂A_c) ∘ A_c)`: Grad-CAM with a weight for each position.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: classes `[B]`; None = the predicted ones.
        layer: name of the layer; None = the map that the head pools (ViT: the tokens that enter the last block).

    Returns:
        `[B, 1, H, W]`, at least 0.
    """
    (chosen,) = chosen_layers(classifier, layer, 1)
    activation, gradient = activation_and_gradient(classifier, chosen, images, targets)
    return enlarge((gradient.relu() * activation).sum(1, keepdim=True).relu(), images)
