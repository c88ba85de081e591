"""Part 3: full disks, missing permissions, homes, networks and file handles, other locales and start methods."""

from __future__ import annotations

import ctypes
import functools
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
from tests.campaign.forked import Job
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
        "attribute maps": lambda: arena.attribute(photos, f"out={out}", "save=maps"),
        "finetune": lambda: arena.finetune(photos, f"out={out}"),
        "train": lambda: arena.train(f"data.images={arena.root}/train", f"out={out}"),
        "evaluate": lambda: arena.evaluate(photos, f"out={out}"),
        "shards": lambda: ["shards", photos, f"out={out}", "per_shard=2"],
    }[command]()


def run(command: list[str], script: str = "-mltx", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command from the start: for what matters while Python starts and imports."""
    return subprocess.run(
        [sys.executable, script, *command],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def ends_in_one_line(status: int, err: str) -> None:
    assert status == 1, err[-1500:]
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: ")


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


def visible(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.name.startswith(".")}


@pytest.fixture(scope="module")
def whole(arena: Arena, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], set[str]]:
    """The names of the files that a command writes where there is space."""

    @functools.cache
    def names(command: str) -> set[str]:
        out = tmp_path_factory.mktemp("whole") / "out"
        outcome = call(words(arena, command, out))
        assert outcome.status == 0, (outcome.err, outcome.trace)
        return visible(out)

    return names


@is_root
@pytest.mark.parametrize("command", [*COMMANDS, "attribute maps"])
@pytest.mark.parametrize("number", range(3))
def test_a_full_disk(
    arena: Arena,
    mounted: Callable[[str], Path],
    whole: Callable[[str], set[str]],
    rng: random.Random,
    command: str,
    number: int,
) -> None:
    place = mounted(f"size={rng.choice([rng.randint(8, 64), rng.randint(64, 400), rng.randint(400, 8000)])}k")
    outcome = call(words(arena, command, place / "out"))
    assert outcome.status in (0, 1)
    if outcome.status == 1:
        assert outcome.err.strip().splitlines()[-1].endswith(("No space left on device", "it is full"))
    found = faults(outcome, ["out", str(place)]) + partial_files(place)
    assert not found, (found, outcome.err[-500:], outcome.trace[-1500:])
    missing = whole(command) - visible(place / "out")
    if "no report: " in outcome.out:  # the command succeeds without its page, and says so
        missing = {name for name in missing if name.partition("/")[0] not in ("report", "index.html")}
    assert outcome.status == 1 or not missing, (missing, outcome.out)
    subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
    again = call(words(arena, command, place / "out"))
    assert again.status == 0, (again.err, again.trace)
    assert visible(place / "out") >= whole(command)  # an interrupted run may leave files of its own
    if command in ("attribute", "attribute maps", "finetune"):
        assert len(explained(place / "out")) == 6


@is_root
@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_folder(arena: Arena, mounted: Callable[[str], Path], command: str) -> None:
    place = mounted("ro")
    outcome = call(words(arena, command, place / "out"))
    assert outcome.status == 1, (outcome.err, outcome.trace)
    assert not faults(outcome, [str(place)])


NOBODY = functools.partial(os.setuid, 65534)


def open_to_all(*folders: Path) -> None:
    """Let another user into these folders, and so into all that contain them."""
    for folder in folders:
        for place in [folder, *folder.parents[:-1]]:
            place.chmod(place.stat().st_mode | 0o055)


@pytest.fixture
def shared(arena: Arena, tmp_path: Path) -> Arena:
    """The arena, whose files another user may read: safetensors writes files for their owner alone."""
    open_to_all(arena.root, tmp_path)
    for place in arena.root.rglob("*"):
        place.chmod(place.stat().st_mode | (0o055 if place.is_dir() else 0o044))
    return arena


@is_root
@pytest.mark.parametrize("command", COMMANDS)
def test_another_user_without_permission(shared: Arena, tmp_path: Path, command: str) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    job = Job(
        words(shared, command, tmp_path / "private" / "out"), tmp_path / "log", prepare=NOBODY, HOME="/nonexistent"
    )
    ends_in_one_line(*job.end(300))


@is_root
def test_a_file_that_may_not_be_read_is_skipped_by_name(shared: Arena, tmp_path: Path) -> None:
    shutil.copytree(shared.root / "photos", tmp_path / "photos")
    (tmp_path / "photos/b.png").chmod(0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    command = shared.attribute(f"images={tmp_path}/photos", f"out={tmp_path}/out")
    job = Job(command, tmp_path / "log", prepare=NOBODY, HOME="/nonexistent")
    status, err = job.end(300)
    assert status == 0, err
    assert "b.png cannot be read: Permission denied" in job.printed(".out")
    assert len(explained(tmp_path / "out")) == 5


VARIABLES = {
    "no home": {"HOME": "/nonexistent"},
    "empty home": {"HOME": ""},
    "LANG=C": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    "hash seed 1": {"PYTHONHASHSEED": "1"},
    "hash seed 2": {"PYTHONHASHSEED": "2"},
    "another place": {"TMPDIR": "/nonexistent"},
}


def results(arena: Arena, place: Path, command: str, **variables: str) -> list[bytes]:
    """Files that a command writes whose paths are not in ASCII."""
    source, key = ("photos", "images") if command == "attribute" else ("train", "data.images")
    photos, out = place / "phötos", place / "öut"
    shutil.copytree(arena.root / source, photos)
    replaced = [word for word in words(arena, command, out) if not word.startswith(f"{key}=")]
    done = run([*replaced, f"{key}={photos}"], **variables)
    assert done.returncode == 0, done.stderr[-1500:]
    names = ["explainer.safetensors"] if command == "train" else [f"{stem}.npz" for stem in "abcdef"]
    return [(out / name).read_bytes() for name in names]


@pytest.fixture(scope="module")
def usual(arena: Arena, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    return {command: results(arena, tmp_path_factory.mktemp("usual"), command) for command in ("attribute", "train")}


@pytest.mark.parametrize(
    ("kind", "command"),
    [*((kind, "attribute") for kind in VARIABLES), ("LANG=C", "train"), ("hash seed 1", "train"), ("no home", "train")],
)
def test_environment_variables_change_no_result(
    arena: Arena, usual: dict[str, list[bytes]], tmp_path: Path, kind: str, command: str
) -> None:
    assert results(arena, tmp_path, command, **VARIABLES[kind]) == usual[command]


def without_network() -> None:
    assert ctypes.CDLL(None).unshare(0x40000000) == 0, "CLONE_NEWNET"


@is_root
@pytest.mark.parametrize("command", COMMANDS)
def test_no_network(arena: Arena, tmp_path: Path, command: str) -> None:
    status, err = Job(words(arena, command, tmp_path / "out"), tmp_path / "log", prepare=without_network).end(300)
    assert status == 0, err[-1500:]


@pytest.mark.parametrize("command", COMMANDS)
def test_few_open_files(arena: Arena, tmp_path: Path, command: str) -> None:
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (64, 64))
    status, err = Job(words(arena, command, tmp_path / "out"), tmp_path / "log", prepare=limit).end(300)
    assert status == 0, err[-1500:]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_clock_that_jumps(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: random.Random, command: str
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + rng.choice([-1e9, -3600, 0, 3600, 1e9]))
    outcome = call(words(arena, command, tmp_path / "out"))
    assert outcome.status == 0, (outcome.err, outcome.trace)


PEAK = """
import resource, sys
from ltx.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_images(arena: Arena, tmp_path: Path) -> None:
    (tmp_path / "peak.py").write_text(PEAK)
    peaks = []
    for count in (16, 160):
        folder = tmp_path / str(count)
        write_photographs(folder, (f"{number}.png" for number in range(count)), (300, 400))
        command = arena.attribute(f"images={folder}", f"out={tmp_path}/out{count}", "save=maps")
        done = run(command, f"{tmp_path}/peak.py")
        assert done.returncode == 0, done.stderr[-1500:]
        peaks.append(int(done.stdout.split("peak ")[1]))
    assert peaks[1] < peaks[0] + 40_000, f"peaks in KiB: {peaks}"


SPAWNING = """
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from ltx.cli.main import main
    main(sys.argv[1:])
"""


def test_workers_that_are_spawned(arena: Arena, tmp_path: Path) -> None:
    (tmp_path / "spawning.py").write_text(SPAWNING)
    trained = []
    for workers in (0, 1):
        out = tmp_path / f"out{workers}"
        done = run([*words(arena, "train", out), f"data.workers={workers}"], f"{tmp_path}/spawning.py")
        assert done.returncode == 0, done.stderr[-1500:]
        trained.append((out / "explainer.safetensors").read_bytes())
    assert trained[0] == trained[1]
