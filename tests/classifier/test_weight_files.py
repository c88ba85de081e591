"""Weights at any depth of a file, averaged weights next to raw ones, and files that do not fit."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from ltx.classifier.weight_files import check_finite, load_weights
from ltx.runtime.errors import InputError


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


RAW, EMA = network(1).state_dict(), network(2).state_dict()


def loaded(content: Any, folder: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state of a network after loading a file with this content."""
    torch.save(content, folder / "weights.pth")
    model = network()
    load_weights(model, folder / "weights.pth", "net", key)
    return model.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "content",
    [
        RAW,
        {"net": RAW, "epoch": 3},
        {"checkpoint": {"student": {"weights": OrderedDict(RAW)}}, "best": 0.9},
        {"state_dict": prefixed("model.", RAW) | {"loss.weight": torch.ones(3)}, "path": Path("/data")},
        prefixed("module.", RAW) | {"n_averaged": torch.tensor(3)},
        prefixed("_orig_mod.", RAW),
        prefixed("module._orig_mod.", RAW),
        prefixed("model._orig_mod.", RAW),
    ],
    ids=["plain", "nested", "deep", "lightning", "averaged", "compiled", "both", "lightning compiled"],
)
def test_tensors_are_found_at_any_depth(content: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(loaded(content, tmp_path), RAW)


@pytest.mark.parametrize(
    ("content", "name", "raw"),
    [
        ({"state_dict": RAW, "state_dict_ema": EMA}, "state_dict_ema", "state_dict"),
        ({"model": RAW, "model_ema": prefixed("module.", EMA)}, "model_ema", "model"),
        (prefixed("model.", RAW) | prefixed("ema_model.", EMA), "ema_model", "model"),
    ],
)
def test_averaged_weights_are_used_and_announced(content: Any, name: str, raw: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=f"averaged weights '{name}' are used, as in timm; classifier.weights_key"):
        assert same(loaded(content, tmp_path), EMA)
    assert same(loaded(content, tmp_path, key=name), EMA)
    assert same(loaded(content, tmp_path, key=raw), RAW)


@pytest.mark.parametrize(
    ("content", "key", "text"),
    [
        ({"a": RAW, "b": EMA}, None, "contains several models: a, b; choose one with classifier.weights_key=NAME"),
        ({"a": RAW, "b": EMA}, "c", "weights_key=c: .* contains a, b"),
        ({"epoch": 3, "args": {"lr": 0.1}}, None, "contains no tensors but epoch, args"),
        ([torch.zeros(2)], None, "contains a list, not a dictionary of tensors"),
        ({"net": {"0.weight": torch.zeros(1)}}, None, r"0\.weight \(1,\) in the file, \(2, 3, 3, 3\) in the model"),
        (RAW | {"extra": torch.zeros(1)}, None, r"extra \(1,\) in the file, absent in the model"),
        ({"net": RAW, "other": {"x": torch.zeros(1)}}, "other", r"0\.weight absent in the file"),
    ],
)
def test_files_that_do_not_fit_say_what_they_contain(content: Any, key: str | None, text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=text) as caught:
        loaded(content, tmp_path, key)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_larger_network_of_the_same_family_does_not_fit(prefix: str, tmp_path: Path) -> None:
    torch.save(prefixed(prefix, timm.create_model("resnet34").state_dict()), tmp_path / "resnet34.pth")
    with pytest.raises(InputError, match=r"does not fit net: .*layer1\.2\.conv1\.weight"):
        load_weights(timm.create_model("resnet18"), tmp_path / "resnet34.pth", "net")


def test_files_without_counters_of_batch_norms_are_loaded(tmp_path: Path) -> None:
    counters = {name for name in RAW if name.endswith("num_batches_tracked")}
    assert counters
    old = {name: value for name, value in RAW.items() if name not in counters}
    assert same(loaded(old, tmp_path), RAW | {name: torch.tensor(0) for name in counters})


def test_a_model_may_have_an_attribute_named_as_a_prefix(tmp_path: Path) -> None:
    def wrapped(seed: int) -> nn.Module:
        return nn.ModuleDict({"module": network(seed)})

    torch.save(wrapped(1).state_dict(), tmp_path / "weights.pth")
    model = wrapped(0)
    load_weights(model, tmp_path / "weights.pth", "net")
    assert same(model.state_dict(), prefixed("module.", RAW))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    damaged = {name: tensor.clone() for name, tensor in RAW.items()}
    damaged["0.weight"][0, 0, 0, 0] = damaged["1.running_var"][1] = value
    with pytest.raises(InputError, match=r"weights\.pth contains NaN or infinity in 0\.weight, 1\.running_var"):
        loaded(damaged, tmp_path)


def test_a_stored_attention_mask_may_be_infinite() -> None:
    check_finite({"attn_mask": torch.tensor([0.0, -math.inf])}, "weights")
    with pytest.raises(InputError):
        check_finite({"attn_mask": torch.tensor([0.0, math.nan])}, "weights")
