"""A checkpoint is a folder that loads, or one line that says why not."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

from ltx import Classifier, InputError, load
from ltx.checkpoints.folder import save_checkpoint
from ltx.classifier.settings import ClassifierConfig
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(2)
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet18", num_classes=5).state_dict(), file)
    return file


def saved(tmp_path: Path, weights: Path, half: bool = False) -> tuple[MaskNetwork, Path]:
    from dataclasses import asdict

    classifier = ClassifierConfig(name="resnet18", weights=str(weights), num_classes=5, input_size=64)
    config = ExplainerConfig()
    torch.manual_seed(3)
    explainer = config.build(classifier.build()).eval()
    folder = tmp_path / "checkpoint"
    save_checkpoint(
        folder, explainer, {"classifier": asdict(classifier), "explainer": asdict(config)}, "# card\n", half
    )
    return explainer, folder


def test_round_trip_is_exact(tmp_path: Path, weights: Path):
    explainer, folder = saved(tmp_path, weights)
    again = load(folder)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again(images), explainer(images))
    assert not again.training
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.yaml", "explainer.safetensors"]


def test_a_full_disk_leaves_the_former_checkpoint_whole(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch):
    explainer, folder = saved(tmp_path, weights)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    synced: list[int] = []

    def full(number: int) -> None:
        synced.append(number)
        if len(synced) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, explainer, {"other": "settings"}, "# another card\n")
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_rounded_weights_of_the_same_classifier_are_accepted_with_a_warning(tmp_path: Path, weights: Path):
    explainer, folder = saved(tmp_path, weights)
    stored = load_file(weights)
    rounded = tmp_path / "rounded.safetensors"
    save_file({name: value.half().to(value.dtype) for name, value in stored.items()}, rounded)
    with pytest.warns(UserWarning, match=r"other weights .* the logits differ by 0\.\d%"):
        again = load(folder, weights=str(rounded))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(again(images), explainer(images), atol=0.02)


@pytest.mark.parametrize("change", ["head", "mean", "nan", "noise"])
def test_weights_that_answer_otherwise_are_refused(tmp_path: Path, weights: Path, change: str):
    _, folder = saved(tmp_path, weights)
    settings = {"head": {"head": "sigmoid"}, "mean": {"mean": [0.5, 0.4, 0.4]}}.get(change, {})
    other = Classifier("resnet18", weights=str(weights), num_classes=5, input_size=64, **settings)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for parameter in other.model.parameters():
        if change == "nan":
            parameter.fill_(float("nan"))
        if change == "noise" and parameter.ndim > 1:
            parameter.add_(parameter.std() * torch.randn(parameter.shape, generator=generator))
    with pytest.raises(InputError, match=r"other weights or normalisation"):
        load(folder, other)


def test_half_precision_is_smaller_and_close(tmp_path: Path, weights: Path):
    explainer, folder = saved(tmp_path, weights, half=True)
    size = (folder / "explainer.safetensors").stat().st_size
    assert size < 2.2 * sum(p.numel() for p in explainer.parameters())
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(load(folder)(images), explainer(images), atol=1e-2)


def test_the_classifiers_weights_are_not_stored(tmp_path: Path, weights: Path):
    explainer, folder = saved(tmp_path, weights)
    stored = (folder / "explainer.safetensors").stat().st_size
    assert stored < 1.1 * 4 * sum(p.numel() for p in explainer.parameters()) + 20_000


def test_another_classifier_is_named(tmp_path: Path, weights: Path):
    _, folder = saved(tmp_path, weights)
    with pytest.raises(InputError, match=r"was made for resnet18 with 5 classes, not for resnet34 with 5"):
        load(folder, Classifier("resnet34", weights="random", num_classes=5, input_size=64))
    with pytest.raises(InputError, match=r"resnet18 with other weights .* classifier\.weights=FILE"):
        load(folder, Classifier("resnet18", weights="random", num_classes=5, input_size=64))


def test_moved_weights_can_be_named(tmp_path: Path, weights: Path):
    _, folder = saved(tmp_path, weights)
    moved = weights.rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        load(folder)
    load(folder, weights=str(moved))


@pytest.mark.parametrize("damage", ["truncated", "missing", "yaml", "key", "width"])
def test_damage_is_one_clear_line(tmp_path: Path, weights: Path, damage: str):
    _, folder = saved(tmp_path, weights)
    tensors, config = folder / "explainer.safetensors", folder / "config.yaml"
    if damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "missing":
        tensors.unlink()
    elif damage == "yaml":
        config.write_text("a: [1,")
    else:
        settings = yaml.safe_load(config.read_text())
        settings["explainer"]["no_such_key" if damage == "key" else "width"] = 8
        config.write_text(yaml.safe_dump(settings))
    words = {
        "truncated": "cannot be read",
        "missing": "holds no explainer.safetensors",
        "yaml": "config.yaml cannot be read",
        "key": "no_such_key",
        "width": "does not fit its own config.yaml",
    }
    with pytest.raises(InputError, match=words[damage]) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
