"""A training so small that a test can run several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx.config import parse
from ltx.pretraining.settings import TrainConfig


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(10):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((80, 72), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


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
