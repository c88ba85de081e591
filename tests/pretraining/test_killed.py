"""Training under SIGKILL: no half-written file, at most one checkpoint interval lost, and the same final weights."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ltx import load
from tests.support.processes import ROOT, environment, run_python
from tests.support.small_inputs import write_photographs, write_weights
from tests.support.small_trainings import assert_same_weights, metric_rows, saved_step, small_training, with_weights

INTERVAL, STEPS, KILLS = 5, 400, 10


def logged_step(out: Path) -> int:
    if not (out / "metrics.csv").is_file():
        return 0
    steps = [row["step"] for row in metric_rows(out)]
    return max((int(step) for step in steps if step and step.isdigit()), default=0)


@pytest.mark.slow
def test_sigkill_at_ten_random_moments(tmp_path: Path):
    photos = write_photographs(tmp_path / "photos", (f"{index}.png" for index in range(8)), (70, 80))
    words = [*with_weights(write_weights(tmp_path)), f"trainer.max_steps={STEPS}", "trainer.validate_every=50"]
    words += [f"trainer.checkpoint_every={INTERVAL}", "trainer.overlays=1"]
    out, moments = tmp_path / "killed", random.Random(0)
    logged, history = 0, []
    for _ in range(KILLS):
        command = [sys.executable, "train.py", *small_training(photos, out, *words)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
        # Some kills happen during start-up, the others during training, at any point of a step or of a save.
        until = logged + moments.choice([-1, 3, 11, 23])
        while process.poll() is None and logged_step(out) <= until:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        logged = logged_step(out)
        if (out / "explainer.safetensors").exists():
            load(out)
        history.append((logged, saved_step(out)))
        assert logged - saved_step(out) <= INTERVAL, history
    assert logged > 20
    for folder in (out, tmp_path / "whole"):
        run_python("train.py", *small_training(photos, folder, *words))
    assert_same_weights(out, tmp_path / "whole")
    print(f"steps logged and steps saved at each kill: {history}")
