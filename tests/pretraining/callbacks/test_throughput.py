"""The speed that a training run reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ltx.pretraining.run import run_pretraining


def test_a_run_prints_its_data_the_remaining_time_and_its_speed(
    config_for: Any, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.shards={shards}/*.tar", "trainer.accumulate=2", "trainer.max_steps=16"]
    run_pretraining(config_for("run", *words))
    printed = capsys.readouterr().out
    assert "8 training images in 4 shards, 2 validation images in 1 shards; 16 steps of 8 images on 1 x cpu" in printed
    assert re.search(r"step 13: [\d.]+ images/s, \d+ s left, validations not included", printed)
    speed = re.search(
        r"([\d.]+) images/s in training, ([\d.]+)% of the time waiting for data, peak memory ([\d.]+)", printed
    )
    assert speed is not None
    assert 0 < float(speed[2]) < 100
    assert float(speed[3]) > 0.1
