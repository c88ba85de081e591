"""Occlusion (Zeiler & Fergus, ECCV 2014), with captum."""

from __future__ import annotations

from torch import Tensor

from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError


def occlusion(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    window: int = 32,
    stride: int = 16,
    max_batch: int = 64,
) -> Tensor:
    """Decrease of the logit when a black square covers a pixel, averaged over the squares that cover it. Signed.

    Args:
        images: `[B, C, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        window: side of the square, in pixels.
        stride: distance between neighbouring squares, in pixels.
        max_batch: maximum batch size of a forward pass.

    Returns:
        `[B, 1, H, W]`.

    Raises:
        InputError: the window does not fit into the images, or the stride exceeds the window.
    """
    if not 1 <= window <= min(images.shape[-2:]):
        raise InputError(f"window={window} does not fit into images of {tuple(images.shape[-2:])} pixels")
    if not 1 <= stride <= window:
        raise InputError(f"stride={stride} is not between 1 and window={window}; pixels would be left out")
    from captum.attr import Occlusion  # slow to import

    channels = images.shape[1]
    attributions: Tensor = Occlusion(classifier).attribute(
        images,
        sliding_window_shapes=(channels, window, window),
        strides=(channels, stride, stride),
        baselines=0.0,
        target=explained_classes(classifier, images, targets, max_batch),
        perturbations_per_eval=max(1, max_batch // len(images)),
    )
    # captum assigns the same score to every channel of a square.
    return attributions.detach().float().mean(1, keepdim=True)
