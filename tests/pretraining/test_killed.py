"""`train.py` under SIGKILL: nothing half-written, at most one checkpoint interval lost, and the same end."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ltx import load
from tests.support.small_inputs import write_photographs, write_weights

ROOT = Path(__file__).parent.parent.parent
INTERVAL, STEPS, KILLS = 5, 400, 10


def command(folder: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "train.py",
        "classifier.name=resnet10t",
        "classifier.num_classes=4",
        "classifier.input_size=64",
        f"classifier.weights={folder}/weights.safetensors",
        f"data.images={folder}/photos",
        "data.workers=0",
        "data.batch_size=4",
        f"trainer.max_steps={STEPS}",
        "trainer.validate_every=50",
        f"trainer.checkpoint_every={INTERVAL}",
        "trainer.log_every=1",
        "trainer.overlays=1",
        "trainer.progress=false",
        "trainer.accelerator=cpu",
        f"out={out}",
    ]


def steps_logged(out: Path) -> int:
    file = out / "metrics.csv"
    if not file.is_file():
        return 0
    with file.open(newline="") as stream:
        steps = [row["step"] for row in csv.DictReader(stream)]
    return max((int(step) for step in steps if step and step.isdigit()), default=0)


@pytest.mark.slow
def test_sigkill_at_ten_random_moments(tmp_path: Path):
    write_weights(tmp_path)
    write_photographs(tmp_path / "photos", (f"{index}.png" for index in range(8)), (70, 80))
    out, moments = tmp_path / "killed", random.Random(0)
    reached, told = 0, []
    for _ in range(KILLS):
        process = subprocess.Popen(command(tmp_path, out), cwd=ROOT, stdout=subprocess.DEVNULL)
        # Some kills fall into the start, the others into training, wherever in a step or a save that is.
        until = reached + moments.choice([-1, 3, 11, 23])
        while process.poll() is None and steps_logged(out) <= until:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached = steps_logged(out)
        saved = 0
        if (out / "last.ckpt").exists():
            saved = torch.load(out / "last.ckpt", weights_only=True)["global_step"]
        if (out / "explainer.safetensors").exists():
            load(out)
        told.append((reached, saved))
        assert reached - saved <= INTERVAL, told
    assert reached > 20
    whole = tmp_path / "whole"
    for folder in (out, whole):
        subprocess.run(command(tmp_path, folder), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    first, second = load(out).state_dict(), load(whole).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    print(f"steps logged and steps saved at each kill: {told}")
