"""Loading: the same masks, with the classifier of the configuration or changed settings of it."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx import InputError, load
from ltx.checkpoints.folder import save_checkpoint
from ltx.classifier.settings import ClassifierConfig
from ltx.explainers.settings import ExplainerConfig
from tests.support.small_checkpoints import small_checkpoint


def test_round_trip_is_exact(folder: Path, weights: Path):
    explainer = small_checkpoint(folder, weights)
    loaded = load(folder)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(images), explainer(images))
    assert not loaded.training
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.yaml", "explainer.safetensors"]


def test_a_checkpoint_from_before_there_were_values_keeps_its_one_map_of_evidence(folder: Path):
    classifier = ClassifierConfig(name="vit_tiny_patch16_224", weights="random", num_classes=5, input_size=64)
    explainer = ExplainerConfig(values=False).build(classifier.build()).eval()
    settings = {key: value for key, value in asdict(ExplainerConfig()).items() if key != "values"}
    save_checkpoint(folder, explainer, {"classifier": asdict(classifier), "explainer": settings})
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loaded = load(folder, explainer.classifier)
    assert loaded.evidence_maps == 1
    with torch.no_grad():
        assert torch.equal(loaded(images), explainer(images))


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [("explainer", "trunk", "shatrue"), ("classifier", "name", "resnet10x"), ("classifier", "num_classes", 7)],
)
def test_a_setting_that_does_not_fit_is_found_in_the_checkpoint(
    folder: Path, weights: Path, group: str, key: str, value: object
):
    small_checkpoint(folder, weights)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config[group][key] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=f"^checkpoint={re.escape(str(folder))}: ") as error:
        load(folder)
    assert f"{group}." in str(error.value)


def test_weights_that_were_moved_can_be_given(folder: Path, weights: Path, tmp_path: Path):
    small_checkpoint(folder, weights)
    moved = weights.rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        load(folder)
    load(folder, weights=str(moved))


def test_an_unknown_setting_of_the_classifier_is_named(folder: Path, weights: Path):
    small_checkpoint(folder, weights)
    with pytest.raises(InputError, match=r"no_such_setting.* settings of ltx\.Classifier"):
        load(folder, no_such_setting=3)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("name", "stranger_module:build", "importing and calling stranger_module:build, which runs that code"),
        ("class_names", "SECRET", "names a file of class names, .*secret.txt, instead of the names"),
    ],
)
def test_a_checkpoint_of_a_stranger_imports_no_module_and_shows_no_file(
    folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, reason: str
):
    small_checkpoint(folder, weights)
    (tmp_path / "stranger_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef build(): pass\n")
    (tmp_path / "secret.txt").write_text("password\n" * 6)
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["classifier"][key] = str(tmp_path / "secret.txt") if value == "SECRET" else value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=reason):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_tensors_that_are_not_finite_are_refused(folder: Path, weights: Path):
    small_checkpoint(folder, weights)
    stored = load_file(folder / "explainer.safetensors")
    name = next(iter(stored))
    stored[name].view(-1)[0] = math.nan
    with safe_open(folder / "explainer.safetensors", "pt") as file:
        save_file(stored, folder / "explainer.safetensors", file.metadata())
    with pytest.raises(InputError, match=rf"checkpoint=.*explainer.safetensors contains NaN or infinity in {name}"):
        load(folder)
