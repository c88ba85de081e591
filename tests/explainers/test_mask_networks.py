"""Mask networks over several families of classifiers, with random weights and small inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ltx import Classifier, InputError
from ltx.classifier.feature_maps import written_into_token
from ltx.explainers.conditioning import ClassEvidence, ClassQuery
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.explainers.unet import UNetExplainer
from ltx.explainers.vit import ViTExplainer

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
    torch.manual_seed(0)
    classes = 7
    return Classifier(name, weights="random", num_classes=classes, input_size=size or FAMILIES[name][1])


def explainer_for(classifier: Classifier, **settings: object) -> MaskNetwork:
    torch.manual_seed(1)
    return ExplainerConfig(**settings).build(classifier).eval()  # type: ignore[arg-type]


def images_for(classifier: Classifier, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, *classifier.input_size, generator=torch.Generator().manual_seed(2))


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
    assert not torch.allclose(first, second), "a conditioned network answers for the class that is asked about"
    assert torch.allclose(first[:1], alone, atol=1e-5)


def test_default_targets_are_the_predicted_classes():
    classifier = classifier_for("resnet18")
    explainer, images = explainer_for(classifier), images_for(classifier)
    with torch.no_grad():
        assert torch.equal(explainer(images), explainer(images, classifier(images).argmax(1)))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_unconditioned_networks_ignore_the_class(name: str):
    classifier = classifier_for(name)
    explainer, images = explainer_for(classifier, conditioned=False), images_for(classifier)
    with torch.no_grad():
        assert torch.equal(explainer(images, 0), explainer(images, 3))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_a_shared_trunk_costs_one_pass_and_stores_nothing(name: str):
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
def test_a_copied_trunk_starts_as_the_classifiers_and_keeps_its_statistics(name: str):
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


def test_another_trunk_starts_from_the_classifiers_weights_where_they_agree():
    classifier = classifier_for("resnet18")
    explainer = explainer_for(classifier, trunk="resnet34")
    assert explainer.trunk is not None
    ours, theirs = explainer.trunk.state_dict(), classifier.model.state_dict()
    assert torch.equal(ours["layer1.0.conv1.weight"], theirs["layer1.0.conv1.weight"])
    assert "layer1.2.conv1.weight" not in theirs


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


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",
        "vit_medium_patch16_gap_240",
    ],
)
def test_what_the_patches_write_is_what_the_class_token_receives(name: str):
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
        written = written_into_token(model.blocks[-1], seen["qkv"], read)
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
def test_a_weight_of_evidence_that_a_network_lacks_is_refused(name: str, setting: dict[str, Any]):
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
    written = written_into_token(model.blocks[-1], seen[0])[:, 1:]
    assert torch.equal(found.final.flatten(2).transpose(1, 2), written)
    assert not torch.equal(written, written.bfloat16().float())


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


@pytest.mark.parametrize(("name", "weight"), [("vit_tiny_patch16_224", None), ("resnet18", None), ("resnet18", 5.0)])
def test_training_begins_at_the_evidence_of_the_class(name: str, weight: float | None):
    classifier = classifier_for(name)
    explainer, images = ExplainerConfig(evidence=weight).build(classifier).eval(), images_for(classifier)
    for parameter in explainer.head.parameters():
        torch.nn.init.zeros_(parameter)
    _, found = explainer.predict_and_encode(images)
    rows = classifier.class_weights()
    assert rows is not None
    for label in (0, 1):
        evidence = torch.einsum("bchw,c->bhw", found.final, (rows - rows.mean(0))[label]).unsqueeze(1)
        spread, centre = torch.std_mean(evidence, (2, 3), keepdim=True)
        logits = explainer.decode(found, torch.tensor([label, label]))
        wanted = (weight or 2) * (evidence - centre) / spread
        wanted = torch.nn.functional.interpolate(wanted, logits.shape[-2:], mode="bilinear")
        torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("classes", [1, 2])
def test_evidence_of_a_sigmoid_class_is_its_own(classes: int):
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
        assert torch.allclose(evidence(final, torch.tensor([label]))[:, 0], expected, atol=1e-4)
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
def test_only_a_map_that_the_head_reads_begins_the_training(name: str, settings: dict[str, object], begins: bool):
    """Products of a token head's row with patch tokens order pixels backwards, those with other trunks not at all."""
    explainer = explainer_for(classifier_for(name), **settings)
    assert any(key.startswith("skip.") for key in explainer.state_dict()) == begins
    assert torch.isfinite(explainer(images_for(explainer.classifier))).all()


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
        ("resnet18", {"stages": [1, 9]}, "9 is no stage of the trunk"),
        ("resnet18", {"variant": "released", "stages": [0]}, r"explainer\.stages=\[0\]: the head .* has one size"),
        ("vit_tiny_patch16_224", {"variant": "released", "depth": 7}, r"explainer\.depth=7: the head .* has one size"),
        ("resnet18", {"name": "inr", "trunk": "none", "stages": [7]}, r"stages=\[7\]: explainer.trunk=none has no"),
        ("resnet18", {"depth": 3}, "explainer.depth=3 is for explainer.name=vit"),
        ("vit_tiny_patch16_224", {"width": 200}, "explainer.width=200; give a multiple of 64"),
    ],
)
def test_impossible_combinations_say_what_to_do(name: str, settings: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        explainer_for(classifier_for(name), **settings)


def test_a_model_whose_final_tokens_are_no_map_needs_another_trunk():
    with pytest.raises(InputError, match=r"keeps no single feature map .*explainer\.trunk=<timm model name>"):
        explainer_for(Classifier("pit_ti_224", weights="random", num_classes=3))


def test_a_module_without_feature_maps_needs_a_trunk_of_its_own():
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    classifier = Classifier(model, input_size=64)
    with pytest.raises(InputError, match=r"explainer\.trunk=<timm model name>"):
        explainer_for(classifier)
    with pytest.raises(InputError, match=r"for instance explainer\.trunk=resnet18"):
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
def test_the_network_fits_the_trunk_that_is_asked_for(name: str, trunk: str, chosen: str):
    classifier = classifier_for(name, 240 if "crossvit" in name else 64)
    explainer, named = (explainer_for(classifier, name=given, trunk=trunk) for given in (None, chosen))
    assert type(explainer) is type(named)
    for key, value in named.state_dict().items():
        assert torch.equal(explainer.state_dict()[key], value), "choosing the network must draw no random numbers"


def test_no_trunk_needs_the_inr_of_any_classifier():
    with pytest.raises(InputError, match=r"only explainer\.name=inr works without image features"):
        explainer_for(classifier_for("crossvit_9_240", 240), trunk="none")


def test_explain_tells_the_three_probabilities():
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
