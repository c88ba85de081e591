"""Loading: the same masks, with the classifier of the configuration or changed settings of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltx import InputError, load
from tests.support.small_checkpoints import small_checkpoint


def test_round_trip_is_exact(folder: Path, weights: Path):
    explainer = small_checkpoint(folder, weights)
    loaded = load(folder)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(images), explainer(images))
    assert not loaded.training
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.yaml", "explainer.safetensors"]


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
