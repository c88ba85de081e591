"""Trunks: shared, copied or another model, and the network that fits them."""

from __future__ import annotations

import pytest
import torch

from ltx import Classifier, InputError
from ltx.explainers.unet import UNetExplainer
from tests.support.mask_networks import classifier_for, explainer_for, images_for


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_a_shared_trunk_costs_one_pass_and_is_not_stored(name: str):
    classifier = classifier_for(name)
    explainer, images = explainer_for(classifier), images_for(classifier)
    stem = next(m for m in classifier.model.modules() if isinstance(m, torch.nn.Conv2d))
    passes: list[int] = []
    handle = stem.register_forward_hook(lambda *_: passes.append(1))
    explainer(images)
    handle.remove()
    assert len(passes) == 1
    stored = explainer.state_dict()
    weights = [w for w in classifier.model.state_dict().values() if w.ndim > 1]
    assert not any(v.shape == w.shape and torch.equal(v, w) for v in stored.values() for w in weights)
    assert not any(key.startswith("trunk.") for key in stored)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_a_copied_trunk_starts_equal_to_the_classifier_and_keeps_its_statistics(name: str):
    classifier = classifier_for(name)
    shared, copied = explainer_for(classifier), explainer_for(classifier, trunk="copy")
    images = images_for(classifier)
    with torch.no_grad():
        _, features = shared.predict_and_encode(images)
        for ours, theirs in zip(copied.encode(images).stages, features.stages, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)
    copied.train()
    before = {key: value.clone() for key, value in copied.state_dict().items()}
    theirs_before = {key: value.clone() for key, value in classifier.model.state_dict().items()}
    loss = copied(images).mean()
    loss.backward()
    torch.optim.SGD([p for p in copied.parameters() if p.requires_grad], lr=1.0).step()
    after = copied.state_dict()
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert any(key.startswith("trunk.") for key in moved)
    assert not any("running" in key or "num_batches" in key for key in moved)
    assert not any(key.startswith(("trunk.patch_embed", "trunk.pos_embed", "trunk.cls_token")) for key in moved)
    assert all(torch.equal(v, theirs_before[k]) for k, v in classifier.model.state_dict().items())


def test_another_trunk_starts_from_the_classifiers_weights_of_equal_shape():
    classifier = classifier_for("resnet18")
    explainer = explainer_for(classifier, trunk="resnet34")
    assert explainer.trunk is not None
    ours, theirs = explainer.trunk.state_dict(), classifier.model.state_dict()
    assert torch.equal(ours["layer1.0.conv1.weight"], theirs["layer1.0.conv1.weight"])
    assert "layer1.2.conv1.weight" not in theirs


@pytest.mark.parametrize(
    ("name", "idle", "settings"),
    [
        ("vit_tiny_patch16_224", [], {}),
        ("resnet18", [], {}),
        ("test_vit2", ["fc_norm"], {}),
        ("test_vit2", ["fc_norm"], {"variant": "released"}),
        ("test_vit3", ["attn_pool"], {}),
        ("test_convnext", ["head.norm"], {}),
        ("test_convnext", ["head.norm"], {"variant": "released"}),
        ("test_convnext", ["head.norm"], {"name": "inr"}),
        ("mobilenetv3_small_050", ["conv_head"], {}),
        ("mobilenetv4_conv_small_035", ["conv_head", "norm_head"], {}),
        ("ghostnet_050", ["conv_head"], {}),
        ("efficientvit_b0", ["head.in_conv", "head.classifier"], {}),
        ("efficientvit_m0", ["attention_biases"], {}),
    ],
)
def test_every_parameter_of_a_copied_trunk_is_trained(name: str, idle: list[str], settings: dict[str, object]):
    """Processes that train together wait for the gradient of each; `idle` are layers that no feature map passes."""
    classifier = classifier_for(name, 64)
    explainer, images = explainer_for(classifier, trunk="copy", **settings), images_for(classifier)
    for _ in range(2):  # nothing of the first pass may be left over in the second
        explainer.zero_grad()
        found = explainer.predict_and_encode(images)[1]
        explainer.decode(found, torch.tensor([1, 1])).square().sum().backward()
    fixed = [key for key, value in explainer.trunk.named_parameters() if not value.requires_grad]
    embedding = ("patch_embed", "pos_embed", "cls_token", "reg_token")
    assert all(any(part in key for key in fixed) for part in idle)
    assert all(any(part in key for part in (*idle, *embedding)) for key in fixed), fixed
    assert [key for key, value in explainer.named_parameters() if value.requires_grad and value.grad is None] == []


def test_a_model_without_a_final_map_needs_another_trunk():
    with pytest.raises(InputError, match=r"has no single feature map per stage .*explainer\.trunk=<timm model name>"):
        explainer_for(Classifier("pit_ti_224", weights="random", num_classes=3))


def test_a_module_without_feature_maps_needs_another_trunk():
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    classifier = Classifier(model, input_size=64)
    with pytest.raises(InputError, match=r"explainer\.trunk=<timm model name>"):
        explainer_for(classifier)
    with pytest.raises(InputError, match=r"choose another trunk with explainer\.trunk="):
        explainer_for(classifier, trunk="copy")
    explainer = explainer_for(classifier, trunk="resnet18")
    assert isinstance(explainer, UNetExplainer)
    with torch.no_grad():
        assert explainer(images_for(classifier), 1).shape == (2, 1, 64, 64)
        assert not torch.allclose(explainer(images_for(classifier), 1), explainer(images_for(classifier), 2))


@pytest.mark.parametrize(
    ("name", "trunk", "chosen"),
    [
        ("crossvit_9_240", "test_resnet", "unet"),  # CrossViT keeps no single feature map
        ("test_resnet", "test_vit", "vit"),
        ("test_vit", "test_resnet", "unet"),
        ("test_vit", "copy", "vit"),
    ],
)
def test_the_default_network_fits_the_trunk(name: str, trunk: str, chosen: str):
    classifier = classifier_for(name, 240 if "crossvit" in name else 64)
    explainer, named = (explainer_for(classifier, name=given, trunk=trunk) for given in (None, chosen))
    assert type(explainer) is type(named)
    for key, value in named.state_dict().items():
        assert torch.equal(explainer.state_dict()[key], value), "choosing the network must draw no random numbers"


def test_only_the_inr_works_without_a_trunk():
    with pytest.raises(InputError, match=r"only explainer\.name=inr works without image features"):
        explainer_for(classifier_for("crossvit_9_240", 240), trunk="none")
