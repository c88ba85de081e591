"""Training runs that take seconds, and comparisons of their files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx import load
from ltx.config.command_line import parse
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.settings import TrainConfig


def small_training(photos: Path, out: Path, *words: str) -> list[str]:
    """Words of `ltx train`: six steps of four images by a small random classifier on a CPU. Later words win."""
    return [
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
        *words,
    ]


def with_weights(file: Path) -> list[str]:
    """Words that replace the random classifier by that of `write_weights`, for training in several processes."""
    return ["classifier.name=resnet10t", "classifier.num_classes=4", f"classifier.weights={file}"]


def small_training_config(photos: Path, out: Path, *words: str) -> TrainConfig:
    """The settings of `small_training`."""
    return parse(TrainConfig, small_training(photos, out, *words), "train.py", "")


@contextmanager
def training_step_replaced(replacement: Callable[..., Any]) -> Iterator[None]:
    """Within the context, steps are `replacement(step, module, batch)` with the original `step(batch)`."""
    original = LTXPretraining.training_step

    def step(self: LTXPretraining, batch: dict[str, Any], batch_idx: int) -> Any:
        return replacement(lambda batch: original(self, batch, batch_idx), self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LTXPretraining, "training_step", step)
        yield


def metric_rows(out: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv`, without their times."""
    with (out / "metrics.csv").open(newline="") as stream:
        return [{**row, "seconds": ""} for row in csv.DictReader(stream)]


def saved_step(out: Path) -> int:
    """The step of the resume point; 0 if there is none."""
    file = out / "last.ckpt"
    return int(torch.load(file, weights_only=True)["global_step"]) if file.exists() else 0


def assert_same_weights(first: Path, second: Path, tolerance: float | None = None) -> None:
    """Two runs ended with the same explainer: to the bit, or within an absolute tolerance."""
    ours, theirs = load(first).state_dict(), load(second).state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if tolerance is None:
            assert torch.equal(value, theirs[name]), name
        else:
            assert torch.allclose(value, theirs[name], rtol=0, atol=tolerance), name
