"""Classifiers of several families with random weights, and untrained mask networks."""

from __future__ import annotations

import torch

from ltx import Classifier
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig

FAMILIES = {
    "vit_tiny_patch16_224": ("vit", 64),
    "deit_tiny_distilled_patch16_224": ("vit", 64),
    "vit_small_patch14_reg4_dinov2": ("vit", 56),
    "resnet18": ("unet", 64),
    "tf_efficientnet_lite0": ("unet", 64),
    "convnext_atto": ("unet", 64),
    "swin_tiny_patch4_window7_224": ("unet", 224),
    "densenet121": ("unet", 64),
    "regnetx_002": ("unet", (64, 96)),
}


def classifier_for(name: str, size: int | tuple[int, int] | None = None) -> Classifier:
    """A classifier with random weights and seven classes."""
    torch.manual_seed(0)
    classes = 7
    return Classifier(name, weights="random", num_classes=classes, input_size=size or FAMILIES[name][1])


def explainer_for(classifier: Classifier, **settings: object) -> MaskNetwork:
    """An untrained mask network."""
    torch.manual_seed(1)
    return ExplainerConfig(**settings).build(classifier).eval()  # type: ignore[arg-type]


def images_for(classifier: Classifier, count: int = 2) -> torch.Tensor:
    """Random images."""
    return torch.rand(count, 3, *classifier.input_size, generator=torch.Generator().manual_seed(2))
