"""Grad-CAM, Grad-CAM++, LayerCAM, and the selection of their layers."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from ltx import Classifier, InputError
from ltx.attribution.attribute import attribute
from ltx.attribution.feature_layers import feature_layers, named_layers
from ltx.attribution.support import supported_methods
from tests.support.toy_models import ThreeStages, seeded, vit


def by_hand(model: ThreeStages, images: torch.Tensor, target: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations of the last map and their gradient by the chain rule: `∂f/∂A = W1ᵀ (1[h > 0] ∘ w2)`."""
    with torch.no_grad():
        activation = model.last(model.middle(model.stem(images)))
        active = model.hidden(activation.flatten(1)) > 0
        gradient = (active * model.head.weight[target]) @ model.hidden.weight
    return activation, gradient.view_as(activation)


def test_cams_equal_their_formulas(images):
    model = seeded(ThreeStages())
    classifier = Classifier(model, input_size=16)
    a, g = by_hand(model, images, 2)
    expected = {"gradcam": (g.mean((2, 3), keepdim=True) * a).sum(1), "layercam": (g.relu() * a).sum(1)}
    alpha = g**2 / (2 * g**2 + g**3 * a.sum((2, 3), keepdim=True)).where(g != 0, 1)
    expected["gradcam++"] = ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1)
    for method, small in expected.items():
        big = F.interpolate(small.relu().unsqueeze(1), size=(16, 16), mode="bilinear")
        torch.testing.assert_close(attribute(method, classifier, images, 2), big, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("resnet18", 64, ["layer2", "layer3", "layer4"]),
        ("tf_efficientnet_lite0", 64, ["blocks.2", "blocks.4", "bn2"]),
        ("convnext_atto", 64, ["stages.1", "stages.2", "norm_pre"]),
        ("densenet121", 64, ["features.transition2.conv", "features.transition3.conv", "features"]),
        ("regnetx_002", 64, ["s2", "s3", "final_conv"]),
        ("swin_tiny_patch4_window7_224", 224, ["layers.1", "layers.2", "norm"]),
        ("mobilevitv2_050", 224, ["stages.2", "stages.3", "final_conv"]),  # 8x8 after 7x7
    ],
)
def test_the_last_map_at_each_resolution_is_found(name, size, expected):
    model = timm.create_model(name, num_classes=3)
    assert [layer.name for layer in feature_layers(Classifier(model, input_size=size), 3)] == expected


def test_transformers_use_the_first_norm_of_the_last_block():
    classifier = Classifier(vit(reg_tokens=1), input_size=(16, 24))
    before, layer = feature_layers(classifier, 2)
    assert (layer.name, layer.layout, layer.grid, layer.prefix) == ("blocks.2.norm1", "tokens", (2, 3), 2)
    assert before.name == "blocks.1"


def test_patch_embeddings_are_not_the_last_map():
    """The only maps of CrossViT are its patch embeddings."""
    classifier = Classifier("crossvit_tiny_240", weights="random", num_classes=3)
    with pytest.raises(InputError, match="has 0 feature maps"):
        feature_layers(classifier)
    assert not {"gradcam", "iia2"} & set(supported_methods(classifier))


def test_a_feature_map_may_be_part_of_a_tuple():
    """Blocks of TNT return pixel tokens and patch tokens."""
    classifier = Classifier("tnt_s_legacy_patch16_224", weights="random", num_classes=3)
    (layer,) = feature_layers(classifier)
    assert (layer.name, layer.layout, layer.position, layer.prefix) == ("blocks.10", "tokens", 1, 1)
    images = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    whole = attribute("iia2", classifier, images, [0, 1, 2], steps=2)
    assert (whole.amax((1, 2, 3)) > whole.amin((1, 2, 3))).all()
    alone = attribute("iia2", classifier, images[1:2], [1], steps=2)
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


def test_class_logits_of_patches_are_not_a_feature_map():
    """VOLO has a second head on the patch tokens beside the main one, and some of its layers keep `[B, H, W, C]`."""
    classifier = Classifier("volo_d1_224", weights="random", num_classes=5, input_size=64)
    (layer,) = feature_layers(classifier)
    assert (layer.name, layer.layout, layer.grid, layer.channels) == ("network.4", "NHWC", (4, 4), 384)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = attribute("gradcam", classifier, images, 0)
    classifier.model.head.weight.data.mul_(-5)
    assert not torch.allclose(before, attribute("gradcam", classifier, images, 0), atol=1e-3 * float(before.max()))


def test_heads_of_attention_pooling_are_not_a_feature_map():
    classifier = Classifier("test_vit3", weights="random", num_classes=5, input_size=64)
    assert [layer.name for layer in feature_layers(classifier)] == ["blocks.8.norm1"]


def test_channels_last_maps_are_permuted():
    """Swin keeps `[B, H, W, C]`: the map's grid must be positions, not channels."""
    classifier = Classifier(timm.create_model("swin_tiny_patch4_window7_224", num_classes=3), input_size=224)
    (layer,) = feature_layers(classifier)
    assert (layer.layout, layer.grid, layer.channels) == ("NHWC", (7, 7), 768)


def test_too_few_maps_of_more_than_one_position_are_refused():
    classifier = Classifier(timm.create_model("resnet18", num_classes=3), input_size=32)
    with pytest.raises(InputError, match=r"ResNet.*feature maps of more than one position, 9 are needed"):
        feature_layers(classifier, 9)


@pytest.mark.parametrize("name", ["lost", "head"])
def test_layers_without_feature_maps_are_named(cnn, name):
    with pytest.raises(InputError, match=name):
        named_layers(cnn, [name])


def test_a_model_is_traced_again_only_if_a_module_changes():
    classifier = Classifier("resnet10t", weights="random", num_classes=3, input_size=64)
    passes = []
    classifier.model.bn1.register_forward_pre_hook(lambda *_: passes.append(1))
    first = feature_layers(classifier)
    made = len(passes)
    again = feature_layers(classifier, 2)
    assert len(passes) == made
    assert first[-1].module is again[-1].module
    classifier.model.layer4 = nn.Sequential(*classifier.model.layer4)
    assert feature_layers(classifier)[-1].module is classifier.model.layer4
    assert len(passes) == 2 * made
