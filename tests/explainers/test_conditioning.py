"""Evidence of the class: its value, its precision, and the networks that have it."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from ltx import Classifier, InputError
from ltx.classifier.class_token import written_into_token
from ltx.classifier.feature_maps import Features
from ltx.explainers.conditioning import ClassEvidence, ClassQuery
from ltx.explainers.settings import ExplainerConfig
from tests.support.mask_networks import classifier_for, explainer_for, images_for


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",
        "vit_medium_patch16_gap_240",
    ],
)
def test_the_patches_contributions_sum_to_what_the_class_token_receives(name: str):
    classifier = classifier_for(name, 64)
    model: Any = classifier.model
    attention, images, explainer = model.blocks[-1].attn, images_for(classifier), explainer_for(classifier)
    seen: dict[str, torch.Tensor] = {}

    def keep_first(key: str) -> Any:
        def hook(_: object, __: object, output: torch.Tensor) -> None:
            seen.setdefault(key, output)

        return hook

    attention.qkv.register_forward_hook(keep_first("qkv"))
    model.blocks[-1].ls1.register_forward_hook(keep_first("received"))
    with torch.no_grad():
        _, found = explainer.predict_and_encode(images)
        read = model.num_prefix_tokens if "distilled" in name else 1
        written = written_into_token(model.blocks[-1], seen["qkv"], read).attended
        bias = model.blocks[-1].ls1(attention.proj.bias)
    received = seen["received"][:, :read].mean(1)
    torch.testing.assert_close(written.sum(1) + bias, received, atol=1e-5, rtol=1e-4)
    patches = written[:, model.num_prefix_tokens :].transpose(1, 2).unflatten(2, classifier.grid)
    pooled = "gap" in name  # its head reads the patches themselves
    assert torch.equal(found.final, patches) is not pooled


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("resnet18", {"conditioned": False}),
        ("resnet18", {"variant": "released"}),
        ("resnet18", {"trunk": "resnet10t"}),
        ("mobilenetv3_small_050", {}),  # its head reads another map than the last one
    ],
)
def test_a_weight_for_missing_evidence_is_refused(name: str, setting: dict[str, Any]):
    classifier = Classifier(name, weights="random", num_classes=7, input_size=64)
    with pytest.raises(InputError, match=r"explainer\.evidence=5\.0: this explainer has no evidence"):
        ExplainerConfig(evidence=5.0, **setting).build(classifier)
    with pytest.raises(InputError, match=r"explainer\.evidence"):
        ExplainerConfig(evidence=float("nan"))


def test_the_evidence_is_not_rounded_to_bf16():
    torch.manual_seed(0)
    classifier = Classifier("vit_tiny_patch16_224", weights="random", num_classes=7, input_size=64, precision="bf16")
    model: Any = classifier.model
    explainer, seen = explainer_for(classifier), []
    model.blocks[-1].attn.qkv.register_forward_hook(lambda *call: seen.append(call[2]))
    _, found = explainer.predict_and_encode(images_for(classifier))
    assert seen[0].dtype == torch.bfloat16
    written = written_into_token(model.blocks[-1], seen[0]).attended[:, 1:]
    assert torch.equal(found.final.flatten(2).transpose(1, 2), written)
    assert not torch.equal(written, written.bfloat16().float())


def standardise(maps: Any) -> torch.Tensor:
    """Maps `[B, h, w]` with mean 0 and standard deviation 1."""
    spread, centre = torch.std_mean(maps, (1, 2), keepdim=True)
    result: torch.Tensor = (maps - centre) / spread
    return result


@pytest.mark.parametrize(("name", "weight"), [("vit_tiny_patch16_224", None), ("resnet18", None), ("resnet18", 5.0)])
def test_training_starts_at_the_evidence_of_the_class(name: str, weight: float | None):
    classifier = classifier_for(name)
    explainer, images = ExplainerConfig(evidence=weight).build(classifier).eval(), images_for(classifier)
    for parameter in explainer.head.parameters():
        torch.nn.init.zeros_(parameter)
    _, found = explainer.predict_and_encode(images)
    rows = classifier.class_weights()
    assert rows is not None
    for label in (0, 1):
        row = (rows - rows.mean(0))[label]
        kinds = [torch.einsum("bchw,c->bhw", each, row) for each in (found.final, *found.values)]
        assert len(kinds) == explainer.evidence_maps == (2 if "vit" in name else 1)
        evidence = standardise(sum(standardise(kind) for kind in kinds))
        if len(kinds) == 2:
            around = [evidence[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] for y, x in product(range(4), repeat=2)]
            smooth = torch.stack([part.mean((1, 2)) for part in around], 1).unflatten(1, (4, 4))
            evidence = (evidence + standardise(smooth)) / 2
        logits = explainer.decode(found, torch.tensor([label, label]))
        wanted = (weight or 2) * evidence.unsqueeze(1)
        wanted = torch.nn.functional.interpolate(wanted, logits.shape[-2:], mode="bilinear")
        torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("classes", [1, 2])
def test_the_evidence_of_sigmoid_classes_is_independent(classes: int):
    """Independent labels: what they have in common is evidence of each, and of an only one there is no other."""
    torch.manual_seed(0)
    classifier = Classifier("resnet18", weights="random", num_classes=classes, input_size=64, head="sigmoid")
    evidence = ClassEvidence(classifier, 512)
    final = torch.rand(1, 512, 2, 2)
    rows = classifier.class_weights()
    assert rows is not None
    for label in range(classes):
        expected = torch.einsum("bchw,c->bhw", final, rows[label])
        expected = (expected - expected.mean()) / expected.std()
        assert torch.allclose(evidence(Features([], final), torch.tensor([label]))[:, 0], expected, atol=1e-4)
    assert float(ClassQuery(classifier, 8).rows.abs().sum()) > 0


@pytest.mark.parametrize(
    ("name", "settings", "begins"),
    [
        ("resnet18", {"trunk": "copy"}, True),
        ("resnet18", {"trunk": "resnet34"}, False),
        ("vit_tiny_patch16_224", {"trunk": "copy"}, False),
        ("resnet18", {"name": "inr", "trunk": "copy"}, True),
        ("vit_tiny_patch16_224", {"name": "inr", "trunk": "copy"}, False),
    ],
)
def test_only_maps_that_the_head_reads_are_evidence(name: str, settings: dict[str, object], begins: bool):
    """Products of a token head's row with patch tokens order pixels backwards, those with other trunks not at all."""
    explainer = explainer_for(classifier_for(name), **settings)
    assert any(key.startswith("skip.") for key in explainer.state_dict()) == begins
    assert torch.isfinite(explainer(images_for(explainer.classifier))).all()
