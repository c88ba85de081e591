"""Part 2: commands killed at random moments, then run again: the end equals the uninterrupted one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.campaign.arena import Arena
from tests.campaign.oracle import partial_files
from tests.support.processes import ROOT, environment

pytestmark = pytest.mark.campaign

COMMANDS = ["train", "finetune", "attribute", "evaluate", "shards", "report", "maps on two processes"]
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
CASES = [(command, SIGNALS[number % 3], number) for number in range(9) for command in COMMANDS][:60]


def words(arena: Arena, command: str, out: Path) -> list[str]:
    root = arena.root
    return {
        "train": lambda: arena.train(
            f"data.images={root}/train", f"out={out}", "trainer.max_steps=6", "trainer.checkpoint_every=2"
        ),
        "finetune": lambda: arena.finetune(f"images={root}/photos", f"out={out}", "batch_size=2"),
        "attribute": lambda: arena.attribute(f"images={root}/photos", f"out={out}"),
        "evaluate": lambda: arena.evaluate(f"images={root}/photos", f"out={out}"),
        "shards": lambda: ["shards", f"images={root}/photos", f"out={out}", "per_shard=2"],
        "report": lambda: ["report", f"{root}/maps", f"out={out}/index.html"],
        "maps on two processes": lambda: arena.attribute(f"images={root}/photos", f"out={out}", "save=maps"),
    }[command]()


def start(arena: Arena, command: str, out: Path) -> subprocess.Popen[bytes]:
    launcher = ["-m", "ltx"]
    if command == "maps on two processes":
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ltx"]
    return subprocess.Popen(
        [sys.executable, *launcher, *words(arena, command, out)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def contents(command: str, out: Path) -> dict[str, object]:
    """What must not depend on the interruption."""
    if command == "train":
        files = ("explainer.safetensors", "metrics.csv")
        kept = {name: (out / name).read_bytes() for name in files}
        kept["metrics.csv"] = [line.split(b",")[:4] for line in kept["metrics.csv"].splitlines()]
        return {"explainer.safetensors": kept["explainer.safetensors"], "steps": len(kept["metrics.csv"])}
    if command == "shards":
        return {file.name: file.read_bytes() for file in out.iterdir() if file.suffix in (".tar", ".json")}
    if command == "evaluate":
        scores = json.loads((out / "scores.json").read_text())
        return {"methods": scores["methods"], "n": scores["n"]}
    if command == "report":
        return {"pages": sorted(file.name for file in out.iterdir() if not file.name.startswith("."))}
    lines, arrays = [], {}
    if command == "maps on two processes":
        for place in sorted((out / "maps").glob("*.tar")):
            records = [json.loads(line) for line in place.with_suffix(".jsonl").read_text().splitlines()]
            with tarfile.open(place) as archive:
                assert [record["map"] for record in records] == archive.getnames()
            lines += records
    else:
        lines = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
        for line in lines:
            with np.load(out / f"{line['stem']}.npz") as stored:
                arrays[line["image"]] = {name: stored[name] for name in stored}
    counts = Counter(line["image"] for line in lines)
    assert set(counts.values()) == {1}, f"an image is there twice: {counts}"
    return {"images": sorted(counts), "arrays": arrays}


def same(one: object, other: object) -> bool:
    """Whether contents are equal; arrays up to the rounding that another division into batches causes."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return bool(np.allclose(one, other, atol=1e-3 * max(1.0, float(np.abs(one).max()))))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, abs=1e-3)
    return one == other


@pytest.fixture(scope="module")
def uninterrupted(arena: Arena, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, dict[str, object]]]:
    """Seconds and contents of each command without an interruption."""
    measured = {}
    for command in COMMANDS:
        out = tmp_path_factory.mktemp("whole") / "out"
        begun = time.monotonic()
        job = start(arena, command, out)
        _, err = job.communicate(timeout=180)
        assert job.returncode == 0, err.decode()[-2000:]
        measured[command] = (time.monotonic() - begun, contents(command, out))
    return measured


@pytest.mark.parametrize(("command", "signum", "number"), CASES, ids=lambda value: str(getattr(value, "name", value)))
def test_killed_and_run_again(
    arena: Arena,
    uninterrupted: dict[str, tuple[float, dict[str, object]]],
    tmp_path: Path,
    rng: random.Random,
    command: str,
    signum: signal.Signals,
    number: int,
) -> None:
    seconds, expected = uninterrupted[command]
    out = tmp_path / "out"
    job = start(arena, command, out)
    try:
        # Most of the time is spent on imports; most kills should meet the work after them.
        job.wait(timeout=rng.uniform(0.3, 1.0) * seconds if rng.random() < 0.8 else rng.uniform(0, seconds))
    except subprocess.TimeoutExpired:
        job.send_signal(signum) if command != "maps on two processes" else kill_all(job, signum)
    _, err = job.communicate(timeout=60)
    assert b"Traceback" not in err or signum == signal.SIGTERM or "two processes" in command, err.decode()[-1500:]
    if out.exists():
        assert not partial_files(out)
    again = start(arena, command, out)
    _, err = again.communicate(timeout=180)
    assert again.returncode == 0, err.decode()[-2000:]
    assert same(contents(command, out), expected)


def kill_all(job: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    """Signal torchrun and its processes: a killed torchrun would leave them."""
    import os

    for pid in (Path("/proc") / str(job.pid) / "task" / str(job.pid) / "children").read_text().split():
        os.kill(int(pid), signum)
    job.send_signal(signum)
