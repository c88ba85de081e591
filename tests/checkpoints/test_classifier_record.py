"""Which classifiers a checkpoint fits: the same trunk with any linear head; a finetuned trunk with a warning."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import ltx
from ltx import Classifier, InputError, load
from ltx.checkpoints.classifier_record import ClassifierRecord
from ltx.checkpoints.folder import save_checkpoint
from ltx.explainers.settings import ExplainerConfig
from tests.support.small_checkpoints import small_checkpoint


def changed_weights(weights: Path, noise: float = 0.0, classes: int = 5, half: bool = False) -> Path:
    """The weights with relative noise on all convolutions, or another random head, in a new file."""
    stored, generator = load_file(weights), torch.Generator().manual_seed(0)
    for name, value in stored.items():
        if value.ndim == 4:
            value += noise * value.std() * torch.randn(value.shape, generator=generator)
        if half:
            stored[name] = value.half().to(value.dtype)
    if classes != 5:
        stored["fc.weight"] = torch.randn(classes, 512, generator=generator)
        stored["fc.bias"] = torch.randn(classes, generator=generator)
    file = weights.with_name("changed.safetensors")
    save_file(stored, file)
    return file


def test_another_head_on_the_same_trunk_is_accepted_and_reported(folder: Path, weights: Path):
    explainer = small_checkpoint(folder, weights)
    head = changed_weights(weights, classes=3)
    with pytest.warns(UserWarning, match=r"resnet18 with 5 classes; the trunk is the same, so it explains this head"):
        loaded = load(folder, weights=str(head), num_classes=3, head="sigmoid")
    assert loaded.classifier.num_classes == 3
    assert loaded.classifier.head == "sigmoid"
    own, transferred = explainer.state_dict(), loaded.state_dict()
    assert all(torch.equal(own[name], transferred[name]) for name in own)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(loaded(images, [0, 0]), loaded(images, [2, 2])), "the mask depends on the new classes"


def test_rounded_weights_are_accepted_with_a_warning(folder: Path, weights: Path):
    explainer = small_checkpoint(folder, weights)
    with pytest.warns(UserWarning, match=r"other weights; the features differ by 0\.\d%"):
        loaded = load(folder, weights=str(changed_weights(weights, half=True)))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(loaded(images), explainer(images), atol=0.02)


def test_a_finetuned_trunk_is_accepted_with_its_measured_difference(folder: Path, weights: Path):
    small_checkpoint(folder, weights)
    differences = []
    for noise in (0.02, 0.05):
        with pytest.warns(UserWarning, match=r"trunk's features differ by [\d.]+% from .*init=") as raised:
            load(folder, weights=str(changed_weights(weights, noise)))
        differences.append(float(str(raised[0].message).split("differ by ")[1].split("%")[0]))
    assert 1 < differences[0] < differences[1] < 50


@pytest.mark.parametrize("change", ["mean", "nan", "trunk", "architecture"])
def test_another_trunk_is_refused(folder: Path, weights: Path, change: str):
    small_checkpoint(folder, weights)
    name, file = ("resnet34", "random") if change == "architecture" else ("resnet18", str(weights))
    settings: dict[str, Any] = {"mean": [0.5, 0.4, 0.4]} if change == "mean" else {}
    if change == "trunk":
        file = str(changed_weights(weights, noise=1.0))
    other = Classifier(name, weights=file, num_classes=5, input_size=64, **settings)
    if change == "nan":
        for parameter in other.model.parameters():
            parameter.fill_(float("nan"))
    message = {"mean": "normalisation"}.get(change, rf"trained for resnet18 with 5 classes, not for {name} with 5")
    with pytest.raises(InputError, match=message) as error:
        load(folder, other)
    assert "\n" not in str(error.value)


def test_a_classifier_with_fewer_stages_is_refused() -> None:
    with pytest.raises(InputError, match=r"deit_tiny_patch16_224 with 1000 classes, not for resnet18 with 1000"):
        ltx.load("deit_tiny_patch16_224", Classifier("resnet18", weights="random", mean=[0.485, 0.456, 0.406]))


def test_a_function_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    weights = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    trained, other = (Classifier(lambda images, k=k: (images**k).mean((2, 3)) @ weights, input_size=32) for k in (1, 3))
    explainer = ExplainerConfig(name="unet", trunk="resnet18", conditioned=False).build(trained)
    save_checkpoint(tmp_path, explainer, {"explainer": {"name": "unet", "trunk": "resnet18", "conditioned": False}})
    load(tmp_path, trained)
    with pytest.raises(InputError, match=r"was trained for .* or with other weights"):
        load(tmp_path, other)


class Untrained(nn.Module):
    """A user's module with nearly constant logits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
        self.head = nn.Linear(8, 4)
        self.head.bias.data += 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(images).mean((2, 3)) / 10)
        return logits


def test_another_untrained_module_of_the_same_class_is_refused(folder: Path, tmp_path: Path):
    from dataclasses import asdict

    from ltx.checkpoints.folder import save_checkpoint
    from ltx.explainers.settings import ExplainerConfig

    settings = ExplainerConfig(name="unet", trunk="resnet10t")
    explainer = settings.build(Classifier(Untrained(0), input_size=64))
    save_checkpoint(folder, explainer, {"explainer": asdict(settings)})
    load(folder, Classifier(Untrained(0), input_size=64))
    with pytest.raises(InputError, match="was trained for Untrained"):
        load(folder, Classifier(Untrained(1), input_size=64))


def as_version_0_1(folder: Path) -> None:
    """Remove what version 0.1 did not record."""
    file = folder / "explainer.safetensors"
    with safe_open(file, framework="pt") as stored:
        about = json.loads(stored.metadata()["made_for"])
    for key in ("stages", "features"):
        about.pop(key, None)
    save_file(load_file(file), file, metadata={"made_for": json.dumps(about)})


def test_a_checkpoint_of_version_0_1_loads_for_its_classifier_and_for_rounded_weights(folder: Path, weights: Path):
    small_checkpoint(folder, weights)
    as_version_0_1(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder)
    with pytest.warns(UserWarning, match=r"other weights; the logits differ by 0\.\d%"):
        load(folder, weights=str(changed_weights(weights, half=True)))
    with pytest.raises(InputError, match="does not record the features of its trunk"):
        load(folder, weights=str(changed_weights(weights, classes=3)), num_classes=3)


def test_the_shipped_explainer_explains_a_new_head(tmp_path: Path):
    shipped = ltx.load("tf_efficientnet_lite0")
    stored = dict(shipped.classifier.model.state_dict())
    rows = stored["classifier.weight"]
    chosen = [0, 217, 482, 491, 497, 566, 569, 571, 574]
    # Nine of the 1,000 rows, and a tenth that leaves the mean as it was: the mean over the classes is subtracted.
    last = 10 * rows.mean(0) - rows[chosen].sum(0)
    stored["classifier.weight"], stored["classifier.bias"] = torch.cat([rows[chosen], last[None]]), torch.zeros(10)
    file = tmp_path / "head.safetensors"
    save_file({name: value.contiguous() for name, value in stored.items()}, file)
    with pytest.warns(UserWarning, match=r"1000 classes; the trunk is the same, so it explains this head with 10"):
        explainer = ltx.load("tf_efficientnet_lite0", weights=str(file), num_classes=10)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    explanation, expected = explainer.explain(images, [3, 8]), shipped.explain(images, [chosen[3], chosen[8]])
    assert explanation.mask is not None
    assert expected.mask is not None
    assert torch.allclose(explanation.mask, expected.mask, atol=1e-3), "a class has the mask of its row, in any head"
    assert not torch.allclose(explanation.mask, explainer.explain(images, [0, 0]).mask, atol=0.05)
    random = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    save_file({name: value.contiguous() for name, value in random.state_dict().items()}, file)
    with pytest.raises(InputError, match=r"1000 classes, not for tf_efficientnet_lite0 with 10"):
        ltx.load("tf_efficientnet_lite0", weights=str(file), num_classes=10)


@pytest.mark.parametrize("text", ["[]", "null", "3", "{", "[" * 100_000])
def test_text_that_is_not_a_record_is_a_value_error(text: str):
    with pytest.raises(ValueError, match=r"Expecting|the record is|nested"):
        ClassifierRecord.from_json(text)
