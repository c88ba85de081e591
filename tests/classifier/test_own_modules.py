"""Modules as callers have them: wrapped, compiled, in half precision, functions, other inputs and outputs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError
from tests.support.toy_models import ThreeStages


class KeywordOnly(ThreeStages):
    def forward(self, *, pixel_values: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(pixel_values)


class Tuple(ThreeStages):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class Dictionary(ThreeStages):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"features": x, "logits": super().forward(x)}


def seeded(build: type[nn.Module] = ThreeStages) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: m,
        lambda m: nn.DataParallel(m),
        lambda m: torch.compile(m, backend="eager"),
        lambda m: torch.optim.swa_utils.AveragedModel(m),
        lambda m: torch.jit.script(m),
        lambda m: m.forward,
        lambda m: lambda images: m(images),
        lambda m: m.double(),
    ],
    ids=["module", "data parallel", "compiled", "averaged", "scripted", "method", "function", "double"],
)
def test_the_same_classifier_in_any_wrapper(wrap: object) -> None:
    expected = seeded()(IMAGES)
    classifier = Classifier(wrap(seeded()), input_size=16)  # type: ignore[operator]
    assert classifier.num_classes == 5
    torch.testing.assert_close(classifier(IMAGES), expected)


@pytest.mark.parametrize("kind", [KeywordOnly, Tuple, Dictionary])
def test_other_inputs_and_outputs(kind: type[nn.Module]) -> None:
    classifier = Classifier(seeded(kind), input_size=16)
    torch.testing.assert_close(classifier(IMAGES), seeded()(IMAGES))
    logits, maps = classifier.logits_and_features(IMAGES)
    torch.testing.assert_close(logits, classifier(IMAGES))
    assert [tuple(stage.shape[-2:]) for stage in maps.stages] == [(8, 8), (4, 4), (2, 2)]


def test_half_precision_is_computed_in_float32() -> None:
    module = seeded().half()
    classifier = Classifier(module, input_size=16)
    assert {parameter.dtype for parameter in classifier.model.parameters()} == {torch.float32}
    torch.testing.assert_close(classifier(IMAGES), seeded()(IMAGES), atol=5e-3, rtol=5e-2)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float16}


def test_the_callers_module_stays_as_it_was() -> None:
    module = seeded()
    module.train()
    module.stem.eval()
    module.head.requires_grad_(False)
    modes = [part.training for part in module.modules()]
    trainable = [parameter.requires_grad for parameter in module.parameters()]
    classifier = Classifier(module, input_size=16).to("cpu")
    classifier(IMAGES)
    classifier.feature_shapes()
    assert [part.training for part in module.modules()] == modes
    assert [parameter.requires_grad for parameter in module.parameters()] == trainable
    before = classifier(IMAGES)
    with torch.no_grad():
        module.head.weight.zero_()  # later training does not change what is explained
    assert torch.equal(classifier(IMAGES), before)


def test_timm_model_as_an_object_is_normalised_like_its_name() -> None:
    torch.manual_seed(0)
    module = timm.create_model("resnet10t", num_classes=4)
    classifier = Classifier(module, input_size=64)
    assert classifier.normalisation[0].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    named = Classifier("resnet10t", weights="random", num_classes=4, input_size=64)
    named.model.load_state_dict(module.state_dict())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(classifier(images), named(images))


def test_models_without_a_head_are_refused_as_such() -> None:
    with pytest.raises(InputError, match="has no classification head"):
        Classifier(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32), input_size=32)
    config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=56)
    with pytest.raises(InputError, match="features and no logits"):
        Classifier(transformers.Dinov2Model(config), mean=[0.5] * 3, std=[0.5] * 3)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (ThreeStages, "classifier=ThreeStages is a class; give an instance"),
        (3, "classifier=3 is not a model"),
    ],
)
def test_objects_that_are_not_models(model: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Classifier(model)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_are_those_of_the_first_convolution(channels: int) -> None:
    module = seeded()
    module.stem[0] = nn.Conv2d(channels, 6, 2, 2)
    classifier = Classifier(module, input_size=16)
    assert classifier.channels == channels
    images = torch.rand(2, channels, 16, 16)
    assert classifier(classifier.images(images)).shape == (2, 5)
    with pytest.raises(InputError, match=rf"\[B, {channels}, H, W\]"):
        classifier.images(IMAGES)
    assert classifier.blank(2).shape == images.shape


@pytest.mark.parametrize("channels", [1, 4])
def test_timm_models_of_other_channels(channels: int) -> None:
    classifier = Classifier("resnet10t", weights="random", num_classes=3, input_size=64, channels=channels)
    assert classifier.normalisation[0].shape == (1, channels, 1, 1)
    images = torch.rand(2, channels, 64, 64)
    logits, maps = classifier.logits_and_features(images)
    assert torch.equal(logits, classifier(images))
    assert [stage.shape[1:] for stage in (*maps.stages, maps.final)] == classifier.feature_shapes()
    packaged = Classifier(channels=channels)
    grey = torch.rand(1, 1, 224, 224).expand(1, channels, -1, -1)
    assert packaged(grey).shape == (1, 1000)
    with pytest.raises(InputError, match=f"give {channels} numbers, one per channel"):
        Classifier("resnet10t", weights="random", num_classes=3, channels=channels, mean=[0.5, 0.5, 0.5])


# -- by import path ------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `my_models` in the working directory, which is not on the import path."""
    (tmp_path / "my_models.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def build(classes=3, seed=0):\n"
        "    torch.manual_seed(seed)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(256, classes))\n"
        "def broken():\n"
        "    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    return tmp_path


def test_module_by_import_path(package: Path) -> None:
    classifier = Classifier("my_models:build", options={"classes": 7}, input_size=16)
    assert (classifier.name, classifier.num_classes, classifier.input_size) == ("my_models:build", 7, (16, 16))
    torch.save({"net": classifier.model.state_dict()}, package / "w.pth")
    other = Classifier("my_models:build", options={"classes": 7, "seed": 1}, input_size=16)
    assert not torch.equal(other(IMAGES), classifier(IMAGES))
    loaded = Classifier("my_models:build", options={"classes": 7, "seed": 1}, weights=package / "w.pth", input_size=16)
    assert torch.equal(loaded(IMAGES), classifier(IMAGES))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("my_modelz:build", {}, "No module named 'my_modelz'; give package.module:function"),
        ("my_models:built", {}, "has no attribute 'built'"),
        ("my_models:build", {"colour": 1}, r"cannot be called with these classifier.options \(colour\)"),
        ("my_models:broken", {}, "returns a int; it must return an nn.Module"),
        ("my_models:torch", {}, "is a module; give a function or a class"),
    ],
)
def test_import_paths_that_do_not_build_a_module(
    package: Path, name: str, options: dict[str, object], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        Classifier(name, options=options)
