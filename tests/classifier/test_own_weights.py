"""A user's own weights and class names, and settings of a classifier that cannot be."""

import errno
import math
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError


@pytest.fixture
def own(tmp_path: Path) -> tuple[Classifier, Path]:
    classifier = Classifier("resnet18", weights="random", input_size=64, num_classes=3)
    state = classifier.model.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "plain.safetensors")
    torch.save(state, tmp_path / "plain.pth")
    wrapped = {f"module.{key}": value for key, value in state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "wrapped.pt")
    lightning = {f"model.{key}": value for key, value in state.items()} | {"loss.weight": torch.ones(3)}
    torch.save({"model_state_dict": lightning, "args": Namespace(lr=0.1)}, tmp_path / "lightning.ckpt")
    return classifier, tmp_path


@pytest.mark.parametrize("file", ["plain.safetensors", "plain.pth", "wrapped.pt", "lightning.ckpt"])
def test_own_weights_and_class_names(own: tuple[Classifier, Path], file: str) -> None:
    original, folder = own
    (folder / "names.txt").write_text("ant\nbee\nwasp\n", encoding="utf-8-sig")  # as Windows writes it
    loaded = Classifier(
        "resnet18", weights=folder / file, num_classes=3, class_names=folder / "names.txt", input_size=64
    )
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(images), original(images))
    assert loaded.class_index("ant") == 0
    assert loaded.class_index("bee") == 1
    assert loaded.fingerprint() == original.fingerprint()


def test_weights_that_do_not_fit_name_the_first_three_tensors(own: tuple[Classifier, Path]) -> None:
    file = own[1] / "plain.safetensors"
    with pytest.raises(InputError) as caught:
        Classifier("resnet18", weights=file, num_classes=4)
    text = str(caught.value)
    assert "fc.weight (3, 512) in the file, (4, 512) in the model" in text
    assert "fc.bias (3,) in the file, (4,) in the model" in text
    with pytest.raises(InputError) as caught:
        Classifier("resnet50", weights=file, num_classes=3)
    text = str(caught.value)
    assert text.count(" in the model") == 3
    assert "and " in text
    assert "more; check classifier.name" in text
    assert "\n" not in text


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "text.pth").write_text("no tensors")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"call": print}))
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    for name in ("text.safetensors", "text.pth", "empty.pth", "code.pth", "list.pth", "missing.pth"):
        with pytest.raises(InputError) as caught:
            Classifier("resnet18", weights=tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert name != "code.pth" or "torch.save(model.state_dict(), FILE)" in str(caught.value)


def test_weights_without_permission_are_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"weights\.safetensors cannot be read: .*Permission denied"):
        Classifier("resnet18", weights=tmp_path / "weights.safetensors")


def test_of_several_models_in_a_file_none_is_guessed(own: tuple[Classifier, Path], tmp_path: Path) -> None:
    state = own[0].model.state_dict()
    both = {f"{part}.{key}": value for part in ("teacher", "student") for key, value in state.items()}
    torch.save(both, tmp_path / "both.pth")
    with pytest.raises(InputError, match="contains several models: teacher, student; choose one with"):
        Classifier("resnet18", weights=tmp_path / "both.pth", num_classes=3)
    half = {f"module.{key}" if key.startswith("layer") else key: value for key, value in state.items()}
    torch.save(half, tmp_path / "half.pth")
    assert Classifier("resnet18", weights=tmp_path / "half.pth", num_classes=3).fingerprint() == own[0].fingerprint()


def test_a_head_without_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda name, pretrained, **options: made(name, **options))  # no network
    with pytest.raises(
        InputError, match=r"num_classes=5: the pretrained resnet18 has 1000, .* classifier\.weights=FILE"
    ):
        Classifier("resnet18", num_classes=5)
    assert Classifier("resnet18", num_classes=1000).num_classes == 1000


def test_modules_are_tried_to_learn_their_outputs(tmp_path: Path) -> None:
    def module(answer: Any) -> nn.Module:
        made = nn.Flatten()
        made.forward = answer  # type: ignore[method-assign]
        return made

    ten = module(lambda x: x.flatten(1)[:, :10])
    assert Classifier(ten, input_size=8, mean=np.array([0.5, 0.4, 0.3])).num_classes == 10
    with pytest.raises(InputError, match="num_classes=5: Flatten returns 10 logits"):
        Classifier(ten, input_size=8, num_classes=5)
    with pytest.raises(InputError, match=r"Flatten returns \(2,\); a classifier returns logits \[B, K\]"):
        Classifier(module(lambda x: x.mean((1, 2, 3))), input_size=8)
    with pytest.raises(InputError, match=r"Flatten returns \(2, 3, 8, 8\); a classifier returns logits"):
        Classifier(module(lambda x: {"logits": x}), input_size=8)
    with pytest.raises(InputError, match=r"weights=my\.pth is for a model by name"):
        Classifier(ten, weights="my.pth", input_size=8)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "resnet_18"}, "classifier.name='resnet_18' is not a timm model; did you mean .*resnet18"),
        ({"num_classes": 5}, "num_classes=5: the packaged tf_efficientnet_lite0 has 1000"),
        ({"class_names": ["cat"]}, "class_names has 1 names for 1000 classes"),
        ({"class_names": "nowhere.txt"}, "nowhere.txt does not exist"),
        ({"head": "relu"}, "head='relu' is unknown; allowed: softmax, sigmoid"),
        ({"precision": "fp64"}, "precision='fp64' is unknown; allowed: fp32, bf16"),
        ({"input_size": 0}, "input_size=0"),
        ({"input_size": [64]}, "input_size"),
        ({"input_size": "large"}, "input_size='large'"),
        ({"input_size": 64.5}, "input_size=64.5"),
        ({"mean": [0.5]}, r"mean=\[0.5\]; give three numbers"),
        ({"std": [0.5, 0.0, 0.5]}, "std="),
        ({"mean": [math.nan, 0, 0]}, r"mean=\[nan, 0, 0\]"),
        ({"std": [math.inf, 1, 1]}, "std="),
        ({"name": "resnet18", "weights": "random", "num_classes": 0}, "num_classes=0; give 1 or more"),
        ({"name": "resnet18", "weights": "random", "num_classes": 1}, "resnet18 has one class.*head=sigmoid"),
        ({"class_names": 7}, "class_names=7; give a text file"),
        ({"class_names": {0: "cat"}}, "give a text file with one name per line, or a list"),
        ({"class_names": ["a", None]}, "class_names contains None, which is not text; put it in quotes"),
        ({"class_names": [True, "no"]}, "class_names contains True, which is not text; put it in quotes"),
        ({"class_names": [8, "011"]}, "class_names contains 8, which is not text; put it in quotes"),  # 010 in YAML
    ],
)
def test_impossible_settings(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Classifier(**options)
