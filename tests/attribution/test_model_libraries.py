"""The same network in timm's, torchvision's and transformers' classes has the same maps, whatever the method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ltx import Classifier
from ltx.attribution.attribute import attribute
from ltx.attribution.feature_layers import feature_layers
from ltx.attribution.support import supported_methods
from tests.attribution.test_architectures import TINY
from tests.support.toy_models import seeded

transformers = pytest.importorskip("transformers", minversion="5", reason="transformers 5 is not installed")

from tests.support import renamed_weights as renamed  # noqa: E402  # it imports transformers

Convert = Callable[[nn.Module], nn.Module]
OPTIONS = TINY | {"inr": {"steps": 1, "areas": 2, "lr": 2e-5}}  # sharp borders amplify rounding of the scores


def compare(reference: Classifier, convert: Convert) -> None:
    """Every method that supports `reference` supports the converted model, with maps equal to 1e-4 of their range."""
    other = renamed.wrapped(convert(reference.model), reference)
    images = torch.rand(2, 3, *reference.input_size, generator=torch.Generator().manual_seed(0))
    targets = [1, 3]
    methods = supported_methods(reference)
    assert supported_methods(other) == methods
    for method in methods:
        expected, maps = (attribute(method, c, images, targets, **OPTIONS.get(method, {})) for c in (reference, other))
        span = expected.amax((1, 2, 3)) - expected.amin((1, 2, 3))
        span = span.maximum(0.01 * expected.abs().amax((1, 2, 3))).view(-1, 1, 1, 1)  # one square covers the image
        # The denominator of Grad-CAM++ passes through zero, which amplifies rounding.
        tolerance = 1e-3 if method == "gradcam++" else 1e-4
        assert ((maps - expected).abs() <= tolerance * span).all(), method  # some maps are constant


def small_vit() -> Classifier:
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=5)
    return Classifier(seeded(model, scale=2.0), input_size=32, mean=renamed.MEAN, std=renamed.STD)


@pytest.mark.parametrize("convert", [renamed.vit_in_torchvision, renamed.vit_in_transformers])
def test_small_transformers(convert: Convert) -> None:
    reference = small_vit()
    compare(reference, convert)
    assert "gae" in supported_methods(reference)


@pytest.mark.parametrize("convert", [renamed.vit_in_torchvision, renamed.vit_in_transformers])
def test_eager_attention_equals_fused_attention(convert: Convert) -> None:
    reference = small_vit()
    model = convert(reference.model)
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = attribute("gae", renamed.wrapped(model, reference), images, 1)
    torch.testing.assert_close(maps, attribute("gae", reference, images, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("convert", [renamed.vit_in_torchvision, renamed.vit_in_transformers])
def test_deit_tiny(convert: Convert, shared_data: Path) -> None:
    weights = shared_data / "weights/deit_tiny_patch16_224.safetensors"
    compare(Classifier("deit_tiny_patch16_224", weights=str(weights)), convert)


@pytest.mark.parametrize("convert", [renamed.resnet_in_torchvision, renamed.resnet_in_transformers])
def test_resnet(convert: Convert) -> None:
    compare(renamed.random_timm("resnet18", 64), convert)


@pytest.mark.slow
@pytest.mark.parametrize("convert", [renamed.convnext_in_torchvision, renamed.convnext_in_transformers])
def test_convnext(convert: Convert) -> None:
    compare(renamed.random_timm("convnext_tiny", 64), convert)


@pytest.mark.slow
@pytest.mark.parametrize("convert", [renamed.swin_in_torchvision, renamed.swin_in_transformers])
def test_swin(convert: Convert) -> None:
    compare(renamed.random_timm("swin_tiny_patch4_window7_224", 224), convert)


def test_the_relative_position_bias_of_swin_is_not_a_feature_map() -> None:
    """The default window has 7 x 7 positions, as the last map has; three images have three different maps."""
    config = transformers.SwinConfig(
        image_size=56, patch_size=2, embed_dim=8, depths=[1, 1, 2], num_heads=[1, 2, 2], window_size=7, num_labels=5
    )
    torch.manual_seed(0)
    model = transformers.SwinForImageClassification(config)
    nn.init.normal_(model.classifier.weight)
    classifier = Classifier(model, input_size=56)
    names = [layer.name for layer in feature_layers(classifier, 3)]
    assert names == ["swin.encoder.layers.0.blocks.0", "swin.encoder.layers.1.blocks.0", "swin.layernorm"]
    images = torch.rand(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    maps = attribute("layercam", classifier, images, 1)
    assert maps.shape == (3, 1, 56, 56)
    assert not torch.allclose(maps[0], maps[1])
    assert torch.isfinite(attribute("iia2", classifier, images, 1, steps=2)).all()
