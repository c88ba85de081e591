"""A training so small that a test can run several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ltx.config.command_line import parse
from ltx.pretraining.settings import TrainConfig
from tests.support.small_inputs import write_photographs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photos", (f"{index}.png" for index in range(10)), (72, 80), cells=(5, 5))


@pytest.fixture
def config_for() -> Callable[..., TrainConfig]:
    """`config_for(photos, out, *words)`: six steps of four images on one core."""
    return configured


def configured(photos: Path, out: Path, *words: str) -> TrainConfig:
    fixed = [
        "classifier.name=resnet18",
        "classifier.weights=random",
        "classifier.num_classes=6",
        "classifier.input_size=64",
        f"data.images={photos}",
        "data.batch_size=4",
        "data.workers=0",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        "trainer.max_steps=6",
        "trainer.validate_every=3",
        "trainer.checkpoint_every=2",
        "trainer.log_every=1",
        "trainer.overlays=2",
        f"out={out}",
    ]
    return parse(TrainConfig, [*fixed, *words], "train.py", "")
