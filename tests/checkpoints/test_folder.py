"""Checkpoint folders: complete or unchanged, small, and readable or refused in one line."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
import yaml

from ltx import InputError, load
from ltx.checkpoints.folder import save_checkpoint
from tests.support.small_checkpoints import small_checkpoint


def test_a_full_disk_leaves_the_previous_checkpoint_intact(
    folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    explainer = small_checkpoint(folder, weights)
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


def test_half_precision_is_smaller_and_close(folder: Path, weights: Path):
    explainer = small_checkpoint(folder, weights, half=True)
    size = (folder / "explainer.safetensors").stat().st_size
    assert size < 2.2 * sum(p.numel() for p in explainer.parameters()) + 60_000
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(load(folder)(images), explainer(images), atol=1e-2)


def test_the_weights_of_the_classifier_are_not_stored(folder: Path, weights: Path):
    explainer = small_checkpoint(folder, weights)
    stored = (folder / "explainer.safetensors").stat().st_size
    assert stored < 1.1 * 4 * sum(p.numel() for p in explainer.parameters()) + 80_000
    assert stored < weights.stat().st_size / 10


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "cannot be read"),
        ("missing", "does not contain explainer.safetensors"),
        ("yaml", "config.yaml cannot be read"),
        ("key", "no_such_key"),
        ("width", "does not fit its own config.yaml"),
        ("text", "config.yaml: explainer is not a mapping of settings"),
    ],
)
def test_damage_is_one_line(folder: Path, weights: Path, damage: str, message: str):
    small_checkpoint(folder, weights)
    tensors, config = folder / "explainer.safetensors", folder / "config.yaml"
    if damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "missing":
        tensors.unlink()
    elif damage == "yaml":
        config.write_text("a: [1,")
    elif damage == "text":
        config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"explainer": "unet"}))
    else:
        settings = yaml.safe_load(config.read_text())
        settings["explainer"]["no_such_key" if damage == "key" else "width"] = 8
        config.write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
