"""Classifiers in timm's classes, each paired with the same network in another library's class."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ltx.classifier.classifier import Classifier
from tests.support import renamed_weights as renamed
from tests.support.toy_models import seeded

Reference = Callable[[pytest.FixtureRequest], Classifier]
Convert = Callable[[nn.Module], nn.Module]


def small_vit() -> Classifier:
    """timm's ViT with random weights, 32 pixels and 16 patches."""
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=5)
    return Classifier(seeded(model, scale=2.0), input_size=32, mean=renamed.MEAN, std=renamed.STD)


def explicit_attention(vit: nn.Module) -> nn.Module:
    """The same timm model without fused attention: a control, which shows what rounding alone changes."""
    model = copy.deepcopy(vit)
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


VITS = (renamed.vit_in_torchvision, renamed.vit_in_transformers, explicit_attention)
RESNETS = (renamed.resnet_in_torchvision, renamed.resnet_in_transformers)
CONVNEXTS = (renamed.convnext_in_torchvision, renamed.convnext_in_transformers)
SWINS = (renamed.swin_in_torchvision, renamed.swin_in_transformers)

FAMILIES: tuple[tuple[str, Reference, tuple[Convert, ...], bool], ...] = (
    ("small ViT", lambda _: small_vit(), VITS, False),
    ("ResNet-18", lambda _: renamed.random_timm("resnet18", 64), RESNETS, False),
    ("ConvNeXt-T", lambda _: renamed.random_timm("convnext_tiny", 64), CONVNEXTS, True),
    ("Swin-T", lambda _: renamed.random_timm("swin_tiny_patch4_window7_224", 224), SWINS, True),
    ("DeiT-Tiny", lambda request: request.getfixturevalue("deit_tiny"), VITS, True),
)
"""Name, timm classifier, conversions, and whether comparisons take long."""

PAIRS = [
    pytest.param(reference, convert, id=f"{name}, {convert.__name__}", marks=[pytest.mark.slow] if slow else [])
    for name, reference, converts, slow in FAMILIES
    for convert in converts
]
"""Each classifier with each of its conversions, as parameters of a test."""
