"""A training configuration that takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig
from ltx.pretraining.settings import TrainConfig
from tests.support.small_inputs import write_photographs
from tests.support.small_trainings import small_training_config


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photographs."""
    return write_photographs(tmp_path / "photos", (f"{index}.png" for index in range(10)), (72, 80), cells=(5, 5))


@pytest.fixture
def config_for(photos: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """`config_for("run", *words)`: settings of a small training on `photos`, into `tmp_path / "run"`."""

    def config(out: str, *words: str) -> TrainConfig:
        return small_training_config(photos, tmp_path / out, *words)

    return config


@pytest.fixture
def shards(photos: Path, tmp_path: Path) -> Path:
    """The ten photographs in five shards."""
    make(MakeConfig(images=str(photos), out=str(tmp_path / "shards"), per_shard=2))
    return tmp_path / "shards"
