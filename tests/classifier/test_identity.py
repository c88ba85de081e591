"""Which classifiers have equal fingerprints, and which may share stored results."""

from __future__ import annotations

import sys
from abc import ABC
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ltx.attribution.settings import AttributeConfig
from ltx.classifier.classifier import Classifier
from ltx.classifier.identity import own_settings, results_key
from ltx.classifier.settings import ClassifierConfig
from ltx.cli.attribute import attribute_files
from ltx.runtime.errors import InputError
from tests.support.toy_models import ThreeStages


def three_stages(**settings: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ThreeStages(), input_size=16, **settings)


def test_functions_differ_by_what_they_return() -> None:
    weights = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))

    def function(scale: float) -> Any:
        return lambda images: scale * images.mean((2, 3)) @ weights

    keys = [results_key(Classifier(function(scale), input_size=8)) for scale in (1, 1, 2)]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_forward_and_layers_count_only_if_they_are_set() -> None:
    def doubled(module: nn.Module, images: Tensor) -> Any:
        return 2 * module(images)

    plain = three_stages()
    for other in (three_stages(forward=doubled), three_stages(features=["stem"]), three_stages(prefix_tokens=0)):
        assert other.fingerprint() == plain.fingerprint(), "the weights are the same"
        assert results_key(other) != results_key(plain)
    assert results_key(three_stages()) == results_key(plain)


def test_code_of_libraries_is_not_a_setting() -> None:
    class Abstract(nn.Conv2d, ABC):
        pass

    Abstract.__module__ = "torch.nn"  # as if torch had a class with a base of the standard library
    module = nn.Sequential(Abstract(3, 2, 2), nn.Flatten())
    assert own_settings(Classifier(module, input_size=2)) == []


def test_a_timm_model_has_settings_of_its_own_only_with_options() -> None:
    settings: dict[str, Any] = {"weights": "random", "num_classes": 3, "input_size": 32}
    plain = Classifier("resnet18", **settings)
    assert own_settings(plain) == []
    assert own_settings(Classifier("resnet18", **settings, options={"global_pool": "max"})) == [
        "options.global_pool=max"
    ]


MODULE = """
from torch import nn
class Net(nn.Module):
    def __init__(self, temperature=1):
        super().__init__()
        self.layer, self.temperature = nn.Linear(12, 3), temperature
    def forward(self, images):
        return self.layer(images.flatten(1)) / self.temperature{edit}
def build(**options):
    net = Net(**options)
    net.temperature *= {factor}
    return net
"""


def test_results_of_other_options_or_another_forward_are_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def key(name: str, edit: str = "", factor: int = 1, **options: Any) -> list[Any]:
        Path(f"{name}.py").write_text(MODULE.format(edit=edit, factor=factor), encoding="utf-8")
        sys.modules.pop(name, None)
        classifier = Classifier(f"{name}:build", weights="random", input_size=2, options=options)
        classifier.model.load_state_dict({"layer.weight": torch.ones(3, 12), "layer.bias": torch.zeros(3)})
        return results_key(classifier)

    assert key("one") == key("same")
    assert key("one") != key("one", temperature=50)
    assert key("one") != key("edited", edit=" + 1")
    assert key("one") != key("scaled", factor=2)


def test_explanations_of_an_edited_classifier_are_not_added_to_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "net", None)
    Image.new("RGB", (2, 2), "red").save("red.png")

    def explain(edit: str) -> None:
        Path("net.py").write_text(MODULE.format(edit=edit, factor=1), encoding="utf-8")
        sys.modules.pop("net")
        torch.manual_seed(0)
        config = ClassifierConfig(name="net:build", weights="random", input_size=2)
        attribute_files(AttributeConfig(method="integrated_gradients", classifier=config, images="red.png", out="out"))

    explain("")
    with pytest.raises(InputError, match="out=out contains explanations made with classifier_settings="):
        explain(" + 1")
