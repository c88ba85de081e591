"""Several processes: the same curve, each key once an epoch, a divided explainer, and an end when one is killed."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ltx import load
from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig
from tests.support.small_inputs import write_photographs, write_weights

ROOT = Path(__file__).parent.parent.parent
SLACK = {"rtol": 2e-3, "atol": 2e-4}
"""Gradients are summed in another order, and AdamW turns a gradient near zero into a whole step."""

PEAK_LR = 1e-3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_weights(folder)
    write_photographs(folder / "photos", (f"{index:02d}.png" for index in range(24)), (44, 50), cells=(5, 5))
    make(MakeConfig(images=str(folder / "photos"), out=str(folder / "shards"), per_shard=3))
    return folder


def words(place: Path, out: Path, processes: int, **settings: object) -> list[str]:
    fixed = {
        "classifier.name": "resnet10t",
        "classifier.num_classes": 4,
        "classifier.input_size": 64,
        "classifier.weights": place / "weights.safetensors",
        "data.images": place / "photos",
        "data.workers": 0,
        "data.batch_size": 8 // processes,
        "trainer.accelerator": "cpu",
        "trainer.devices": processes,
        "trainer.progress": "false",
        "trainer.max_steps": 6,
        "trainer.validate_every": 3,
        "trainer.checkpoint_every": 2,
        "trainer.log_every": 1,
        "trainer.overlays": 1,
        "fill": "random",
        "objective.ranking.weight": 0.5,
        "out": out,
    }
    return [f"{key}={value}" for key, value in {**fixed, **settings}.items()]


def run(command: list[str], expected: int = 0) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == expected, done.stderr[-2000:]
    return done.stdout + done.stderr


def torchrun(processes: int, script: str = "train.py") -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", script]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def assert_same_training(first: Path, second: Path) -> None:
    for a, b in zip(rows(first), rows(second), strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert bool(a[key]) == bool(b[key])
            if a[key]:
                assert np.isclose(float(a[key]), float(b[key]), **SLACK), (a["step"], key, a[key], b[key])


@pytest.mark.slow
def test_one_and_four_processes_give_the_same_curve(place: Path, tmp_path: Path) -> None:
    """Four images on each of four, so that mosaics of four photographs are made on all."""
    run([sys.executable, "train.py", *words(place, tmp_path / "one", 1, **{"data.batch_size": 16})])
    run([sys.executable, "train.py", *words(place, tmp_path / "two", 2, **{"data.batch_size": 8})])
    run([*torchrun(4), *words(place, tmp_path / "four", 4, **{"data.batch_size": 4})])
    assert_same_training(tmp_path / "one", tmp_path / "two")
    assert_same_training(tmp_path / "one", tmp_path / "four")


@pytest.mark.slow
def test_two_processes_train_a_trunk_whose_head_has_layers(place: Path, tmp_path: Path) -> None:
    settings = {"explainer.trunk": "test_convnext", "trainer.max_steps": 3}
    run([sys.executable, "train.py", *words(place, tmp_path / "two", 2, **settings)])
    assert len(rows(tmp_path / "two")) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_four_processes_show_each_key_once_an_epoch(place: Path, tmp_path: Path, workers: int) -> None:
    """24 samples in 8 shards, 3 an epoch and rank; each rank writes down the names that its steps saw."""
    script = tmp_path / "recorded.py"
    script.write_text(
        "import json, os, sys\n"
        "from ltx.config.command_line import parse\n"
        "from ltx.pretraining.run import pretrain\n"
        "from ltx.pretraining.settings import TrainConfig\n"
        "from ltx.pretraining.ltx import LTXPretraining\n"
        "step = LTXPretraining.training_step\n"
        "def recorded(self, batch, batch_idx):\n"
        "    with open(f'{os.environ[\"SEEN\"]}/{self.global_rank}.txt', 'a') as file:\n"
        "        file.writelines(name + '\\n' for name in batch['name'])\n"
        "    return step(self, batch, batch_idx)\n"
        "LTXPretraining.training_step = recorded\n"
        "pretrain(parse(TrainConfig, sys.argv[1:], 'train.py', ''))\n"
    )
    os.environ["SEEN"] = str(tmp_path)
    settings = {"data.shards": place / "shards", "data.val_share": 0, "data.workers": workers, "trainer.max_steps": 3}
    run([*torchrun(4, str(script)), *words(place, tmp_path / "out", 4, **settings, **{"data.batch_size": 2})])
    names = [line for file in sorted(tmp_path.glob("?.txt")) for line in file.read_text().splitlines()]
    assert len(names) == len(set(names)) == 24


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "processes", "victim"), [("torchrun", 4, 0), ("own", 2, 0), ("own", 2, 1)])
def test_a_killed_rank_ends_the_job_within_a_minute(
    place: Path, tmp_path: Path, launcher: str, processes: int, victim: int
) -> None:
    start = torchrun(processes) if launcher == "torchrun" else [sys.executable, "train.py"]
    out = tmp_path / "out"
    settings = {"trainer.max_steps": 400, "trainer.validate_every": 400}
    assert 0 < killed_at(out, [*start, *words(place, out, processes, **settings)], victim) < 400


@pytest.mark.slow
@pytest.mark.parametrize("processes", [4, 2])
def test_after_a_kill_as_many_or_fewer_processes_end_as_the_uninterrupted_run(
    place: Path, tmp_path: Path, processes: int
) -> None:
    """The same command, or one whose processes take more images each."""
    settings = {"trainer.max_steps": 20, "trainer.validate_every": 10}
    out = tmp_path / "killed"

    def command(out: Path, processes: int) -> list[str]:
        return [*torchrun(processes), *words(place, out, processes, **settings, **{"data.batch_size": 16 // processes})]

    saved = killed_at(out, command(out, 4), victim=3)
    assert 0 < saved < 20
    assert f"going on from {out}/last.ckpt" in run(command(out, processes))
    run(command(tmp_path / "whole", 4))
    assert_same_training(out, tmp_path / "whole")
    first, second = (load_file(folder / "explainer.safetensors") for folder in (out, tmp_path / "whole"))
    assert all(torch.allclose(first[key], second[key], rtol=0, atol=3 * PEAK_LR) for key in first)


def killed_at(out: Path, command: list[str], victim: int) -> int:
    """Kill one rank of a job after its first checkpoint; the job must fail within a minute and leave no process.

    Returns:
        The step that its last checkpoint holds.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 600
        while not (out / "last.ckpt").exists():
            assert job.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        os.kill(ranks_of(job.pid)[victim], signal.SIGKILL)
        killed = time.monotonic()
        assert job.wait(timeout=60) != 0
        while ranks_of(job.pid, out) and time.monotonic() < killed + 60:
            time.sleep(0.2)
        assert not ranks_of(job.pid, out), "a rank is left over"
        print(f"ended {time.monotonic() - killed:.0f} s after the kill")
    finally:
        for pid in ranks_of(job.pid, out):
            os.kill(pid, signal.SIGKILL)
    load_file(out / "explainer.safetensors")
    return int(torch.load(out / "last.ckpt", weights_only=True)["global_step"])


@pytest.mark.slow
def test_a_divided_explainer_trains_saves_and_goes_on_as_a_whole_one(place: Path, tmp_path: Path) -> None:
    """FSDP: a rank holds half of the parameters; it dies in step 5, and the last checkpoint is that of step 4."""
    script = tmp_path / "divided.py"
    script.write_text(
        "import os, sys\n"
        "from ltx.config.command_line import parse\n"
        "from ltx.pretraining.run import pretrain\n"
        "from ltx.pretraining.settings import TrainConfig\n"
        "from ltx.pretraining.ltx import LTXPretraining\n"
        "step = LTXPretraining.training_step\n"
        "def watched(self, batch, batch_idx):\n"
        "    if self.global_step == int(os.environ['DIES_AT']):\n"
        "        os.abort()\n"
        "    parameters = list(self.explainer.parameters())\n"
        "    own = sum(p.to_local().numel() for p in parameters)\n"
        "    print(f'holds {own / sum(p.numel() for p in parameters):.2f}', flush=True)\n"
        "    return step(self, batch, batch_idx)\n"
        "LTXPretraining.training_step = watched\n"
        "pretrain(parse(TrainConfig, sys.argv[1:], 'train.py', ''))\n"
    )
    copied = {"explainer.name": "unet", "explainer.trunk": "copy", "trainer.validate_every": 2}  # at step 4 too
    out, whole = tmp_path / "divided", tmp_path / "whole"
    run([sys.executable, "train.py", *words(place, whole, 1, **copied)])
    command = [*torchrun(2, str(script)), *words(place, out, 2, **copied, **{"trainer.strategy": "fsdp"})]
    os.environ["DIES_AT"] = "5"
    run(command, expected=1)
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 4
    os.environ["DIES_AT"] = "-1"
    told = run(command)
    assert f"going on from {out}/last.ckpt" in told
    assert set(re.findall(r"holds ([\d.]+)", told)) == {"0.50"}
    assert_same_training(out, whole)
    first, second = (load_file(folder / "explainer.safetensors") for folder in (out, whole))
    assert {key: value.shape for key, value in first.items()} == {key: value.shape for key, value in second.items()}
    assert all(torch.allclose(first[key], second[key], rtol=0, atol=3 * PEAK_LR) for key in first)
    load(out)


def ranks_of(job: int, out: Path | None = None) -> list[int]:
    """The training processes below a job (itself among them without torchrun), by rank; or all that write to `out`."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            arguments = (folder / "cmdline").read_bytes().decode().split("\0")
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except (OSError, IndexError):
            continue
        trains = any(word.endswith("train.py") for word in arguments)
        if not trains or (out is not None and f"out={out}" not in arguments):
            continue
        pid = int(folder.name)
        if out is not None:
            found[pid] = pid
        elif "torch.distributed.run" not in arguments and job in (pid, parent):
            rank = next((int(v[11:]) for v in variables if v.startswith("LOCAL_RANK=")), 0)
            found[rank] = pid
    return [found[key] for key in sorted(found)]
