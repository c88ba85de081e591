"""The same network in timm's, torchvision's and transformers' classes has the same maps, whatever the method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ltx import Classifier
from ltx.attribution.attribute import attribute
from ltx.attribution.feature_layers import feature_layers
from ltx.attribution.support import supported_methods
from tests.attribution.test_architectures import TINY

transformers = pytest.importorskip("transformers", minversion="5", reason="transformers 5 is not installed")

from tests.support.model_pairs import PAIRS, Convert, Reference, small_vit  # noqa: E402  # it imports transformers
from tests.support.renamed_weights import vit_in_torchvision, vit_in_transformers, wrapped  # noqa: E402

# The sharp borders of `inr` amplify rounding: at 2e-5 timm with explicit attention differs from itself by 1e-4. At 1e-6
# rounding changes maps by 6e-6, another class by 0.08.
OPTIONS = TINY | {"inr": {"steps": 1, "areas": 2, "lr": 1e-6}}


@pytest.mark.parametrize(("reference", "convert"), PAIRS)
def test_every_method_has_equal_maps(reference: Reference, convert: Convert, request: pytest.FixtureRequest) -> None:
    """The same methods are supported, and their maps are equal to 1e-4 of their range."""
    expected_of = reference(request)
    other = wrapped(convert(expected_of.model), expected_of)
    images = torch.rand(2, 3, *expected_of.input_size, generator=torch.Generator().manual_seed(0))
    targets = [1, 3]
    methods = supported_methods(expected_of)
    assert supported_methods(other) == methods
    assert ("gae" in methods) == hasattr(expected_of.model, "cls_token")
    for method in methods:
        expected, maps = (
            attribute(method, c, images, targets, **OPTIONS.get(method, {})) for c in (expected_of, other)
        )
        span = expected.amax((1, 2, 3)) - expected.amin((1, 2, 3))
        span = span.maximum(0.01 * expected.abs().amax((1, 2, 3))).view(-1, 1, 1, 1)  # one square covers the image
        # The denominator of Grad-CAM++ passes through zero, which amplifies rounding: pixels times 1 + 1e-7 change the
        # maps of the small ViT by 7e-4.
        tolerance = 1e-3 if method == "gradcam++" else 1e-4
        difference = (maps - expected).abs()
        assert (difference <= tolerance * span).all(), (method, difference.max())  # some maps are constant


@pytest.mark.parametrize("convert", [vit_in_torchvision, vit_in_transformers])
def test_eager_attention_equals_fused_attention(convert: Convert) -> None:
    reference = small_vit()
    model = convert(reference.model)
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = attribute("gae", wrapped(model, reference), images, 1)
    torch.testing.assert_close(maps, attribute("gae", reference, images, 1), rtol=1e-4, atol=1e-5)


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
