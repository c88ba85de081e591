"""A small explainer in a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.small_checkpoints import resnet18_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file with random weights of a `resnet18` with five classes."""
    return resnet18_weights(tmp_path / "weights.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the checkpoint goes."""
    return tmp_path / "checkpoint"
