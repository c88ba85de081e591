"""Mask networks for several families of classifiers, with random weights and small inputs."""

from __future__ import annotations

import pytest
import torch

from ltx import InputError
from ltx.explainers.unet import UNetExplainer
from ltx.explainers.vit import ViTExplainer
from tests.support.mask_networks import FAMILIES, classifier_for, explainer_for, images_for


@pytest.mark.parametrize("name", FAMILIES)
def test_masks_of_every_family(name: str):
    classifier = classifier_for(name)
    explainer = explainer_for(classifier)
    assert isinstance(explainer, {"vit": ViTExplainer, "unet": UNetExplainer}[FAMILIES[name][0]])
    images = images_for(classifier)
    with torch.no_grad():
        first, second = explainer(images, 0), explainer(images, 3)
        alone = explainer(images[:1], 0)
    assert first.shape == (2, 1, *classifier.input_size)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert not torch.allclose(first, second), "a conditioned network explains the target class"
    assert torch.allclose(first[:1], alone, atol=1e-5)


def test_default_targets_are_the_predicted_classes():
    classifier = classifier_for("resnet18")
    explainer, images = explainer_for(classifier), images_for(classifier)
    with torch.no_grad():
        assert torch.equal(explainer(images), explainer(images, classifier(images).argmax(1)))


def test_pixels_that_a_mask_may_keep_have_its_size():
    explainer = explainer_for(classifier_for("resnet18"))
    with pytest.raises(InputError, match=r"^allowed is float32 \[1, 1, 8, 9\]; give real \[1, 1, "):
        explainer.masks(torch.rand(1, 1, 4, 4), allowed=torch.ones(1, 1, 8, 9))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_unconditioned_networks_ignore_the_class(name: str):
    classifier = classifier_for(name)
    explainer, images = explainer_for(classifier, conditioned=False), images_for(classifier)
    with torch.no_grad():
        assert torch.equal(explainer(images, 0), explainer(images, 3))


def test_released_heads():
    vit = explainer_for(classifier_for("vit_tiny_patch16_224"), trunk="copy", variant="released", conditioned=False)
    cnn = explainer_for(classifier_for("resnet18"), trunk="copy", variant="released", conditioned=False)
    for explainer, grid in ((vit, (4, 4)), (cnn, (2, 2))):
        images = images_for(explainer.classifier)
        scores = explainer.decode(explainer.encode(images), torch.zeros(2, dtype=torch.long))
        assert scores.shape == (2, 1, *grid)
    # Linear(d, d) with tanh and Linear(d, 1); one 1x1 convolution.
    assert [p.shape for p in vit.head.parameters()] == [(192, 192), (192,), (1, 192), (1,)]
    assert [p.shape for p in cnn.head.parameters()] == [(1, 512, 1, 1), (1,)]


def test_the_unet_decodes_to_stride_four():
    classifier = classifier_for("resnet18")
    explainer, images = explainer_for(classifier), images_for(classifier)
    _, features = explainer.predict_and_encode(images)
    assert explainer.decode(features, torch.zeros(2, dtype=torch.long)).shape == (2, 1, 16, 16)


def test_scopes():
    copied = explainer_for(classifier_for("resnet18"), trunk="copy")
    head, decoder, every = (set(copied.scope(name)) for name in ("head", "decoder", "all"))
    assert head == {"head.weight", "head.bias", "skip.weight", "skip.bias"}
    assert head < decoder < every
    assert not any(key.startswith("trunk.") for key in decoder)
    shared = explainer_for(classifier_for("resnet18"))
    with pytest.raises(InputError, match="scope=all would change the explained classifier"):
        shared.scope("all")
    with pytest.raises(InputError, match="did you mean decoder"):
        shared.scope("decodr")


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("resnet18", {"name": "vit"}, "use explainer.name=unet"),
        ("vit_tiny_patch16_224", {"name": "unet"}, "use explainer.name=vit"),
        ("resnet18", {"trunk": "resnet81"}, "did you mean resnet18"),
        ("resnet18", {"stages": [1, 9]}, "9 is not a stage of the trunk"),
        ("resnet18", {"variant": "released", "stages": [0]}, r"explainer\.stages=\[0\]: the head .* has a fixed size"),
        (
            "vit_tiny_patch16_224",
            {"variant": "released", "depth": 7},
            r"depth=7: the head .* has a fixed size",
        ),
        ("resnet18", {"name": "inr", "trunk": "none", "stages": [7]}, r"stages=\[7\]: explainer.trunk=none has no"),
        ("resnet18", {"depth": 3}, "explainer.depth=3 is for explainer.name=vit"),
        ("vit_tiny_patch16_224", {"width": 200}, "explainer.width=200; give a multiple of 64"),
    ],
)
def test_invalid_combinations_say_what_to_do(name: str, settings: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        explainer_for(classifier_for(name), **settings)


def test_explain_reports_the_three_probabilities():
    classifier = classifier_for("resnet18")
    explainer, images = explainer_for(classifier), images_for(classifier)
    found = explainer.explain(images, 2)
    assert found.mask is not None
    probabilities = [
        classifier.probabilities(classifier(pixels))[:, 2]
        for pixels in (images, images * found.mask, images * (1 - found.mask))
    ]
    for told, computed in zip(
        (found.probability, found.probability_kept, found.probability_removed), probabilities, strict=True
    ):
        assert torch.allclose(told, computed, atol=1e-5)
    assert found.targets.tolist() == [2, 2]
