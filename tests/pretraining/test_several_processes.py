"""Several processes: the same curves, each image once an epoch, and a clean end when one is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.processes import ROOT, environment, patched_script, run_python, srun_variables, torchrun
from tests.support.several_processes import PEAK_LR, assert_same_curves, words_for, write_inputs
from tests.support.small_trainings import assert_same_weights, metric_rows, saved_step


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.slow
def test_one_two_and_four_processes_give_the_same_curves(inputs: Path, tmp_path: Path) -> None:
    """Four images on each of four processes, so that mosaics of four photographs are made on all."""
    for processes in (1, 2, 4):
        start = torchrun(4) if processes == 4 else ["train.py"]
        run_python(*start, *words_for(inputs, tmp_path / str(processes), processes, images=16))
    assert_same_curves(tmp_path / "1", tmp_path / "2")
    assert_same_curves(tmp_path / "1", tmp_path / "4")


@pytest.mark.slow
def test_the_tasks_of_srun_train_together(inputs: Path, tmp_path: Path) -> None:
    """As in the job of docs/many_gpus.md: neither RANK nor LOCAL_RANK is set."""
    words = words_for(inputs, tmp_path / "out", 2, "trainer.max_steps=3")
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(run_python, "train.py", *words, **srun_variables(rank, 2, port=port)) for rank in (0, 1)]
        first, second = (task.result() for task in tasks)
    assert "3 steps of 8 images on 2 x cpu" in first
    assert "images on" not in second
    assert saved_step(tmp_path / "out") == 3


@pytest.mark.slow
def test_two_processes_train_a_trunk_whose_head_has_layers(inputs: Path, tmp_path: Path) -> None:
    words = words_for(inputs, tmp_path / "two", 2, "explainer.trunk=test_convnext", "trainer.max_steps=3")
    run_python("train.py", *words)
    assert len(metric_rows(tmp_path / "two")) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_four_processes_see_each_image_once_an_epoch(inputs: Path, tmp_path: Path, workers: int) -> None:
    """24 samples in 8 shards, 3 an epoch and rank; each rank writes the names that its steps saw."""
    script = patched_script(
        tmp_path / "recorded.py",
        "def patched(self, batch, batch_idx):\n"
        "    with open(f'{os.environ[\"SEEN\"]}/{self.global_rank}.txt', 'a') as file:\n"
        "        file.writelines(name + '\\n' for name in batch['name'])\n"
        "    return step(self, batch, batch_idx)\n",
    )
    words = [f"data.shards={inputs / 'shards'}", "data.val_share=0", f"data.workers={workers}", "trainer.max_steps=3"]
    run_python(*torchrun(4, script), *words_for(inputs, tmp_path / "out", 4, *words), SEEN=str(tmp_path))
    names = [line for file in sorted(tmp_path.glob("?.txt")) for line in file.read_text().splitlines()]
    assert len(names) == len(set(names)) == 24


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "processes", "victim"), [("torchrun", 4, 0), ("ltx", 2, 0), ("ltx", 2, 1)])
def test_a_killed_rank_ends_the_job_within_a_minute(
    inputs: Path, tmp_path: Path, launcher: str, processes: int, victim: int
) -> None:
    start = torchrun(processes) if launcher == "torchrun" else ["train.py"]
    words = words_for(inputs, tmp_path / "out", processes, "trainer.max_steps=400", "trainer.validate_every=400")
    assert 0 < kill_one_rank(tmp_path / "out", [*start, *words], victim) < 400


@pytest.mark.slow
@pytest.mark.parametrize("processes", [4, 2])
def test_after_a_kill_as_many_or_fewer_processes_end_as_the_uninterrupted_run(
    inputs: Path, tmp_path: Path, processes: int
) -> None:
    """The same command, or one whose processes take more images each."""
    out, whole = tmp_path / "killed", tmp_path / "whole"

    def command(out: Path, processes: int) -> list[str]:
        words = ["trainer.max_steps=20", "trainer.validate_every=10"]
        return [*torchrun(processes), *words_for(inputs, out, processes, *words, images=16)]

    assert 0 < kill_one_rank(out, command(out, 4), victim=3) < 20
    assert f"resuming from {out}/last.ckpt" in run_python(*command(out, processes))
    run_python(*command(whole, 4))
    assert_same_curves(out, whole)
    assert_same_weights(out, whole, tolerance=3 * PEAK_LR)


def kill_one_rank(out: Path, arguments: list[str], victim: int) -> int:
    """Kill one rank of a job after its first checkpoint; the job must fail within a minute and leave no process.

    Returns:
        The step of its last checkpoint.
    """
    job = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 600
        while not (out / "last.ckpt").exists():
            assert job.poll() is None
            assert time.monotonic() < deadline
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
    return saved_step(out)


def ranks_of(job: int, out: Path | None = None) -> list[int]:
    """Process ids of the ranks of a job, by rank; with `out`, of all trainings that write to that folder."""
    ranks = {}
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
            ranks[pid] = pid
        elif "torch.distributed.run" not in arguments and job in (pid, parent):
            rank = next((int(v[11:]) for v in variables if v.startswith("LOCAL_RANK=")), 0)
            ranks[rank] = pid
    return [ranks[key] for key in sorted(ranks)]
