"""Untrained explainers of small classifiers, and smooth images."""

from __future__ import annotations

import torch

from ltx import Classifier
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig


def small_explainer(name: str = "resnet18", **settings: object) -> MaskNetwork:
    """An untrained explainer of a classifier with random weights, five classes and 64 × 64 pixels."""
    torch.manual_seed(0)
    classifier = Classifier(name, weights="random", num_classes=5, input_size=64)
    return ExplainerConfig(**settings).build(classifier).eval()  # type: ignore[arg-type]


def smooth_images(count: int = 3) -> torch.Tensor:
    """Smooth random images `[count, 3, 64, 64]` of a few blurred blobs."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 1)
