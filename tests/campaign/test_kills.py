"""Part 2: commands killed at random moments, then run again: the end equals the uninterrupted one.

`train`, `finetune`, `attribute` and `evaluate` are killed as one process and as two that share the work. `shards` and
`report` do not share work among processes: they use threads, and a second process with the same folder is a second
command, which part 5 starts. The processes are forked, so that a start costs little; three cases start torchrun.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.campaign.arena import Arena
from tests.campaign.forked import Job
from tests.campaign.oracle import partial_files
from tests.support.processes import ROOT, environment, torchrun

pytestmark = pytest.mark.campaign

COMMANDS = {
    **dict.fromkeys(("train", "finetune", "attribute", "evaluate", "shards", "report"), 1),
    **{f"{command} on two processes": 2 for command in ("train", "finetune", "attribute", "evaluate")},
}
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
CASES = [(command, signum, number) for number in range(2) for command in COMMANDS for signum in SIGNALS]


def words(arena: Arena, command: str, out: Path) -> list[str]:
    root = arena.root
    photos, to = f"images={root}/photos", f"out={out}"
    steps = ["trainer.max_steps=6", "trainer.checkpoint_every=2"]
    return {
        "train": lambda: arena.train(f"data.images={root}/train", to, *steps),
        "finetune": lambda: arena.finetune(photos, to, "batch_size=2"),
        "attribute": lambda: arena.attribute(photos, to),
        "evaluate": lambda: arena.evaluate(photos, to),
        "shards": lambda: ["shards", photos, to, "per_shard=2"],
        "report": lambda: ["report", f"{root}/maps", f"out={out}/index.html"],
        "train on two processes": lambda: arena.train(
            f"data.images={root}/train", to, *steps, "data.batch_size=1", "data.val_share=0.34"
        ),
        "finetune on two processes": lambda: arena.finetune(photos, to, "batch_size=2", "save=maps"),
        "attribute on two processes": lambda: arena.attribute(photos, to, "save=maps"),
        "evaluate on two processes": lambda: arena.evaluate(photos, to),
    }[command]()


def start(arena: Arena, command: str, out: Path) -> Job:
    return Job(words(arena, command, out), out.with_name(f"{out.name} printed"), COMMANDS[command])


def contents(command: str, out: Path) -> dict[str, Any]:
    """What must not depend on the interruption: results, and the names of visible files."""
    visible = {str(file.relative_to(out)) for file in out.rglob("*") if not file.name.startswith(".")}
    return {"files": sorted(name for name in visible if not name.startswith("maps/")), **results(command, out)}


def results(command: str, out: Path) -> dict[str, Any]:
    if command.startswith("train"):
        rows = list(csv.DictReader((out / "metrics.csv").open(newline="")))
        curves = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
        return {"explainer": (out / "explainer.safetensors").read_bytes(), "curves": curves}
    if command == "shards":
        return {file.name: file.read_bytes() for file in out.iterdir() if file.suffix in (".tar", ".json")}
    if command.startswith("evaluate"):
        scores = json.loads((out / "scores.json").read_text())
        return {"methods": scores["methods"], "n": scores["n"]}
    if command == "report":
        return {file.name: file.read_bytes() for file in out.iterdir() if not file.name.startswith(".")}
    lines, arrays = [], {}
    if "two processes" in command:
        for place in sorted((out / "maps").glob("*.tar")):
            records = [json.loads(line) for line in place.with_suffix(".jsonl").read_text().splitlines()]
            with tarfile.open(place) as archive:
                assert [record["map"] for record in records] == archive.getnames()
                for record in records:
                    arrays[record["image"]] = archive.extractfile(record["map"]).read()
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


@dataclass
class Whole:
    """An uninterrupted command: CPU time of its first process in nanoseconds, seconds, and contents of its folder."""

    work: int
    seconds: float
    contents: dict[str, Any]


def whole(arena: Arena, command: str, out: Path) -> Whole:
    begun = time.monotonic()
    job = start(arena, command, out)
    work = job.measure()
    status, err = job.end(300)
    assert status == 0, err[-2000:]
    return Whole(work, time.monotonic() - begun, contents(command, out))


@pytest.fixture(scope="module")
def uninterrupted(arena: Arena, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    return {command: whole(arena, command, tmp_path_factory.mktemp("whole") / "out") for command in COMMANDS}


@pytest.fixture(scope="module")
def interrupted() -> Iterator[list[bool]]:
    """Whether each command was killed before its end; most of them must be."""
    met: list[bool] = []
    yield met
    assert sum(met) > 0.5 * len(met), f"{sum(met)} of {len(met)} commands were running when they were killed"


@pytest.mark.parametrize(("command", "signum", "number"), CASES, ids=lambda value: str(getattr(value, "name", value)))
def test_killed_and_run_again(
    arena: Arena,
    uninterrupted: dict[str, Whole],
    interrupted: list[bool],
    tmp_path: Path,
    rng: random.Random,
    command: str,
    signum: signal.Signals,
    number: int,
) -> None:
    expected = uninterrupted[command]
    limit = 60 + 20 * expected.seconds
    out = tmp_path / "out"
    ranks = rng.choice([[0], [1], [0, 1]]) if COMMANDS[command] == 2 else [0]
    job = start(arena, command, out)
    interrupted.append(job.kill_after(rng.uniform(0.05, 1) * expected.work, signum, ranks))
    _, err = job.end(limit)
    assert "Traceback" not in err or signum == signal.SIGTERM or len(job.processes) > 1, err[-2000:]
    if out.exists():
        assert not partial_files(out)
    status, err = start(arena, command, out).end(limit)
    assert status == 0, err[-2000:]
    assert same(contents(command, out), expected.contents)


UNDER_TORCHRUN = [
    ("train on two processes", signal.SIGTERM),
    ("finetune on two processes", signal.SIGKILL),
    ("attribute on two processes", signal.SIGINT),
]


def torchrun_of(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *torchrun(2, "-m"), "ltx", *words],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(("command", "signum"), UNDER_TORCHRUN, ids=lambda value: str(getattr(value, "name", value)))
def test_killed_under_torchrun(
    arena: Arena, tmp_path: Path, rng: random.Random, command: str, signum: signal.Signals
) -> None:
    """As a person or a cluster does: torchrun is told to end, the terminal sends Ctrl-C, or one rank is killed."""
    out = tmp_path / "out"
    expected = whole(arena, command, tmp_path / "whole")
    job = torchrun_of(words(arena, command, out))
    while not (out / ".lock").exists() and job.poll() is None:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.5 * expected.seconds))
    if job.poll() is None:
        ranks = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        if signum == signal.SIGINT:
            os.killpg(job.pid, signum)
        else:
            os.kill(int(rng.choice(ranks)) if signum == signal.SIGKILL else job.pid, signum)
    job.communicate(timeout=900)
    assert not partial_files(out)
    again = torchrun_of(words(arena, command, out))
    _, err = again.communicate(timeout=900)
    assert again.returncode == 0, err[-2000:]
    assert same(contents(command, out), expected.contents)
