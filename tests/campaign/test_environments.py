"""Part 3: full disks, missing permissions, homes, networks and file handles, other locales and start methods."""

from __future__ import annotations

import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.campaign.arena import Arena, explained
from tests.campaign.oracle import call, faults, partial_files
from tests.support.processes import ROOT, environment
from tests.support.small_inputs import write_photographs

pytestmark = pytest.mark.campaign

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, another user, another network")
COMMANDS = ["attribute", "finetune", "train", "evaluate", "shards"]


def words(arena: Arena, command: str, out: Path) -> list[str]:
    photos = f"images={arena.root}/photos"
    return {
        "attribute": lambda: arena.attribute(photos, f"out={out}"),
        "finetune": lambda: arena.finetune(photos, f"out={out}"),
        "train": lambda: arena.train(f"data.images={arena.root}/train", f"out={out}"),
        "evaluate": lambda: arena.evaluate(photos, f"out={out}"),
        "shards": lambda: ["shards", photos, f"out={out}", "per_shard=2"],
    }[command]()


def run(
    command: list[str], user: int | None = None, prepare: Callable[[], None] | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ltx", *command],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=180,
        user=user,
        preexec_fn=prepare,
    )


def ends_in_one_line(done: subprocess.CompletedProcess[str], status: int) -> None:
    assert done.returncode == status, done.stderr[-1500:]
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts file systems in memory with given options."""
    places = []

    def mount(options: str) -> Path:
        place = tmp_path / f"mount{len(places)}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


@is_root
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("size", ["16k", "48k", "120k"])
def test_a_full_disk(arena: Arena, mounted: Callable[[str], Path], rng: random.Random, command: str, size: str) -> None:
    place = mounted(f"size={size}")
    outcome = call(words(arena, command, place / "out"))
    assert outcome.status in (0, 1)
    if outcome.status == 1:
        assert outcome.err.strip().splitlines()[-1].endswith(("No space left on device", "it is full"))
    found = faults(outcome, ["out", str(place)]) + partial_files(place)
    assert not found, (found, outcome.err[-500:], outcome.trace[-1500:])
    subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
    again = call(words(arena, command, place / "out"))
    assert again.status == 0, (again.err, again.trace)
    if command in ("attribute", "finetune"):
        assert len(explained(place / "out")) == 6


@is_root
@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_folder(arena: Arena, mounted: Callable[[str], Path], command: str) -> None:
    place = mounted("ro")
    outcome = call(words(arena, command, place / "out"))
    assert outcome.status == 1, (outcome.err, outcome.trace)
    assert not faults(outcome, [str(place)])


@is_root
@pytest.mark.parametrize("command", COMMANDS)
def test_another_user_without_permission(arena: Arena, tmp_path: Path, command: str) -> None:
    for folder in [arena.root, *arena.root.parents]:
        if os.access(folder, os.W_OK) and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "private").mkdir(mode=0o700)
    done = run(words(arena, command, tmp_path / "private" / "out"), user=65534, HOME="/nonexistent")
    ends_in_one_line(done, 1)


@is_root
def test_a_file_that_may_not_be_read_is_skipped_by_name(arena: Arena, tmp_path: Path) -> None:
    for folder in [arena.root, *arena.root.parents]:
        if os.access(folder, os.W_OK) and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    shutil.copytree(arena.root / "photos", tmp_path / "photos")
    (tmp_path / "photos/b.png").chmod(0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    for folder in [tmp_path, *list(tmp_path.parents)[:3]]:
        folder.chmod(folder.stat().st_mode | 0o055)
    done = run(arena.attribute(f"images={tmp_path}/photos", f"out={tmp_path}/out"), user=65534, HOME="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert "b.png cannot be read: Permission denied" in done.stdout
    assert len(explained(tmp_path / "out")) == 5


VARIABLES = {
    "no home": {"HOME": "/nonexistent"},
    "empty home": {"HOME": ""},
    "LANG=C": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    "hash seed 1": {"PYTHONHASHSEED": "1"},
    "hash seed 2": {"PYTHONHASHSEED": "2"},
    "another place": {"TMPDIR": "/nonexistent"},
}


@pytest.mark.parametrize(("kind", "command"), list(itertools.product(VARIABLES, ["attribute", "train"])))
def test_environment_variables_change_no_result(arena: Arena, tmp_path: Path, kind: str, command: str) -> None:
    photos = tmp_path / "phötos"
    source = "photos" if command == "attribute" else "train"
    shutil.copytree(arena.root / source, photos)
    key = "images" if command == "attribute" else "data.images"
    results = []
    for number, variables in enumerate(({}, VARIABLES[kind])):
        out = tmp_path / f"öut{number}"
        replaced = [word for word in words(arena, command, out) if not word.startswith(f"{key}=")]
        done = run([*replaced, f"{key}={photos}"], **variables)
        assert done.returncode == 0, done.stderr[-1500:]
        names = ["explainer.safetensors"] if command == "train" else [f"{stem}.npz" for stem in "abcdef"]
        results.append([(out / name).read_bytes() for name in names])
    assert results[0] == results[1]


@is_root
@pytest.mark.parametrize("command", ["attribute", "train", "finetune"])
def test_no_network(arena: Arena, tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "ltx", *words(arena, command, tmp_path / "out")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-1500:]


@pytest.mark.parametrize("command", ["attribute", "train", "shards"])
def test_few_open_files(arena: Arena, tmp_path: Path, command: str) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    done = run(words(arena, command, tmp_path / "out"), prepare=limit)
    assert done.returncode == 0, done.stderr[-1500:]


@pytest.mark.parametrize("command", ["attribute", "train"])
def test_a_clock_that_jumps(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: random.Random, command: str
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + rng.choice([-1e9, -3600, 0, 3600, 1e9]))
    outcome = call(words(arena, command, tmp_path / "out"))
    assert outcome.status == 0, (outcome.err, outcome.trace)


def test_memory_does_not_grow_with_the_number_of_images(arena: Arena, tmp_path: Path) -> None:
    peaks = []
    for count in (16, 160):
        folder = tmp_path / str(count)
        write_photographs(folder, (f"{number}.png" for number in range(count)), (300, 400))
        script = (
            "import resource, sys\nfrom ltx.cli.main import main\n"
            "try:\n    main(sys.argv[1:])\nfinally:\n"
            "    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        command = arena.attribute(f"images={folder}", f"out={tmp_path}/out{count}", "save=maps")
        done = subprocess.run(
            [sys.executable, "-c", script, *command],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-1500:]
        peaks.append(int(done.stdout.split("peak ")[1]))
    assert peaks[1] < peaks[0] + 40_000, f"peaks in KiB: {peaks}"


def test_workers_that_are_spawned(arena: Arena, tmp_path: Path) -> None:
    script = tmp_path / "spawning.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    from ltx.cli.main import main\n"
        "    main(sys.argv[1:])\n"
    )
    trained = []
    for number, workers in enumerate((0, 1)):
        out = tmp_path / f"out{number}"
        command = [*words(arena, "train", out), f"data.workers={workers}"]
        done = subprocess.run(
            [sys.executable, str(script), *command],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-1500:]
        trained.append((out / "explainer.safetensors").read_bytes())
    assert trained[0] == trained[1]
