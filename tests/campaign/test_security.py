"""Part 4: files of a stranger cannot run code, write outside `out`, fill the memory, or steal a file."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.campaign.arena import Arena, explained
from tests.campaign.oracle import call, faults
from tests.support.processes import ROOT, environment
from tests.support.tar_files import jpeg

pytestmark = pytest.mark.campaign

MEMORY_MIB = 700
"""How much more memory an attack may take than the same command without it."""


class Evil:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def peak(words: list[str]) -> tuple[int, str, float]:
    """Status, stderr and peak memory in MiB of a command in a process of its own."""
    with tempfile.TemporaryFile() as err:
        job = subprocess.Popen(
            [sys.executable, "-m", "ltx", *words], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=err
        )
        _, status, usage = os.wait4(job.pid, 0)
        err.seek(0)
        return os.waitstatus_to_exitcode(status), err.read().decode(), usage.ru_maxrss / 1024


@pytest.fixture(scope="module")
def usual(arena: Arena, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Peak memory in MiB of explaining six images."""
    out = tmp_path_factory.mktemp("usual")
    status, err, memory = peak(arena.attribute(f"images={arena.root}/photos", f"out={out}"))
    assert status == 0, err
    return memory


# -- code ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.bin", "weights.safetensors"])
def test_weights_run_no_code(arena: Arena, place: Path, name: str) -> None:
    place.mkdir()
    for content in (pickle.dumps(Evil(place / "ran")), None):
        if content is None:
            torch.save({"state_dict": Evil(place / "ran")}, place / name)
        else:
            (place / name).write_bytes(content)
        words = arena.attribute(f"images={arena.root}/photos", f"out={place}/out")
        words = [word for word in words if "weights" not in word]
        outcome = call([*words, f"classifier.weights={place / name}"])
        assert outcome.status == 2, outcome
        assert not faults(outcome, [name])
    assert not (place / "ran").exists()


def test_a_resume_point_runs_no_code(arena: Arena, place: Path) -> None:
    case = arena.copy(place)
    content = {"state_dict": Evil(place / "ran"), "pytorch-lightning_version": "2.0"}
    torch.save(content, case.root / "checkpoint/last.ckpt")
    outcome = call(case.train(f"data.images={case.root}/train", f"out={case.root}/checkpoint"))
    assert outcome.status == 2, (outcome.err, outcome.trace)
    assert not faults(outcome, ["last.ckpt"])
    assert not (place / "ran").exists()


@pytest.mark.parametrize("attack", ["tag", "module", "pipe"])
def test_a_configuration_runs_no_code(arena: Arena, place: Path, attack: str) -> None:
    place.mkdir()
    text = {
        "tag": f"out: !!python/object/apply:os.system ['touch {place}/ran']\n",
        "module": f"classifier:\n  name: 'os:system'\n  options:\n    command: 'touch {place}/ran'\n",
        "pipe": f"data:\n  shards: 'pipe:touch {place}/ran'\n  val_share: 0\n",
    }[attack]
    (place / "stranger.yaml").write_text(text)
    words = ["train", f"config={place}/stranger.yaml", f"out={place}/out", "trainer.max_steps=1"]
    outcome = call(words)
    assert not (place / "ran").exists()
    assert outcome.status == 2, (outcome.err, outcome.trace)
    assert not faults(outcome, ["stranger.yaml", "classifier", "data.shards"])


def test_a_checkpoint_imports_no_module(arena: Arena, place: Path) -> None:
    case = arena.copy(place)
    (place / "stranger_module.py").write_text(f"open({str(place / 'ran')!r}, 'w').close()\ndef build(): pass\n")
    file = case.root / "checkpoint/config.yaml"
    config = yaml.safe_load(file.read_text())
    config["classifier"]["name"] = "stranger_module:build"
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "ltx", *case.finetune(f"images={case.root}/photos", f"out={place}/out")],
        cwd=ROOT,
        env=environment(PYTHONPATH=f"{ROOT}:{place}"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "ran").exists()


def test_arrays_run_no_code(arena: Arena, place: Path) -> None:
    case = arena.copy(place)
    values = np.empty((4, 4), dtype=object)
    values[0, 0] = Evil(place / "ran")
    np.save(case.root / "photos/f.npy", values, allow_pickle=True)
    np.savez(case.root / "maps/a.npz", image=values, map=values)
    for words in (case.attribute(f"images={case.root}/photos", f"out={place}/out"), ["report", f"{case.root}/maps"]):
        outcome = call(words)
        assert not faults(outcome, ["f.npy", "a.npz", "maps"]), (outcome.err, outcome.trace)
    assert not (place / "ran").exists()


# -- places --------------------------------------------------------------------------------------------------------


def test_a_shard_writes_nothing_outside_and_reads_no_link(arena: Arena, place: Path) -> None:
    place.mkdir()
    secret = place / "secret.jpg"
    secret.write_bytes(jpeg("blue"))
    out = place / "deep/er/out"
    with tarfile.open(place / "evil.tar", "w") as archive:
        for name in ("../../../up.jpg", str(place / "absolute.jpg"), "a/../../../b.jpg", "c\\..\\..\\c.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(jpeg())
            archive.addfile(info, io.BytesIO(jpeg()))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}.jpg")
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
    for save in ("pictures", "maps"):
        before = {file for file in place.rglob("*") if out not in file.parents}
        outcome = call(arena.attribute(f"images={place}/evil.tar", f"out={out}/{save}", f"save={save}"))
        assert outcome.status == 0, (outcome.err, outcome.trace)
        after = {file for file in place.rglob("*") if out not in file.parents and file not in out.parents}
        assert after - before <= {out, *out.parents}
        assert outcome.out.count("it is not a regular file") == 2
    assert len(explained(out / "pictures")) == 4
    for tar in (out / "maps/maps").glob("*.tar"):
        with tarfile.open(tar) as archive:
            assert not [name for name in archive.getnames() if name.startswith(("/", "..")) or "/../" in name]


def test_a_record_cannot_make_the_report_read_other_files(arena: Arena, place: Path) -> None:
    case = arena.copy(place)
    shutil.copy(case.root / "maps/a.png", place / "secret.png")
    shutil.copy(case.root / "maps/a.npz", place / "secret.npz")
    file = case.root / "maps/explanations.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["stem"] = "../../secret"
    lines[1]["stem"] = str(place / "secret")
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = call(["report", f"{case.root}/maps"])
    assert not faults(outcome, ["maps", "explanations.jsonl", "secret"]), (outcome.err, outcome.trace)
    page = case.root / "maps/index.html"
    if outcome.status == 0 and page.exists():
        assert "secret" not in page.read_text()


def test_a_checkpoint_cannot_show_a_file_of_the_user(arena: Arena, place: Path) -> None:
    case = arena.copy(place)
    (place / "secret.txt").write_text("password1\npassword2\npassword3\npassword4\n")
    file = case.root / "checkpoint/config.yaml"
    config = yaml.safe_load(file.read_text())
    config["classifier"]["class_names"] = str(place / "secret.txt")
    file.write_text(yaml.safe_dump(config))
    outcome = call(case.finetune(f"images={case.root}/photos", f"out={place}/out"))
    assert not faults(outcome, ["checkpoint", "class_names"]), (outcome.err, outcome.trace)
    written = [file for file in (place / "out").rglob("*") if file.suffix in (".jsonl", ".html", ".yaml")]
    assert not [file for file in written if "password" in file.read_text(errors="ignore")]


# -- memory --------------------------------------------------------------------------------------------------------


def huge_png(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compressor = zlib.compressobj(9)
    row = bytes(1 + side * 3)
    pixels = b"".join(compressor.compress(row) for _ in range(min(side, 2000))) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_bombs_in_pictures_take_no_memory(arena: Arena, place: Path, usual: float) -> None:
    shutil.copytree(arena.root / "photos", place / "photos")
    (place / "photos/bomb.png").write_bytes(huge_png(60_000))
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 1 << 20, 3)}
    with (place / "photos/bomb.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    status, err, memory = peak(arena.attribute(f"images={place}/photos", f"out={place}/out"))
    assert status == 0, err
    assert memory < usual + MEMORY_MIB
    assert len(explained(place / "out")) == 6


def test_a_tar_of_very_many_members_takes_no_memory(arena: Arena, place: Path, usual: float) -> None:
    place.mkdir()
    header = tarfile.TarInfo("0000000.txt").tobuf()
    with gzip.open(place / "many.tar", "wb", compresslevel=1) as stream:
        for number in range(1_000_000):
            block = bytearray(header)
            block[:7] = f"{number:07d}".encode()
            block[148:156] = b" " * 8
            block[148:156] = f"{sum(block):06o}\0 ".encode()
            stream.write(bytes(block))
        info = tarfile.TarInfo("a.jpg")
        info.size = len(jpeg())
        stream.write(info.tobuf() + jpeg() + bytes(-len(jpeg()) % 512) + bytes(1024))
    status, err, memory = peak(["shards", f"shards={place}/many.tar", f"out={place}/out"])
    assert status == 0, err
    assert memory < usual + 100


@pytest.mark.parametrize("file", ["stranger.yaml", "settings.yaml", "config.yaml"])
def test_aliases_take_no_memory(arena: Arena, place: Path, usual: float, file: str) -> None:
    case = arena.copy(place)
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 12)}]" for n in range(1, 12)), "out: *a11"]
    where = {"settings.yaml": case.root / "maps", "config.yaml": case.root / "checkpoint"}.get(file, place)
    (where / file).write_text("\n".join(lines))
    words = {
        "stranger.yaml": ["shards", f"config={place}/stranger.yaml"],
        "settings.yaml": case.attribute(f"images={case.root}/photos", f"out={case.root}/maps"),
        "config.yaml": case.finetune(f"images={case.root}/photos", f"out={place}/out"),
    }[file]
    status, err, memory = peak(words)
    assert status == 2, err
    assert "Traceback" not in err
    assert memory < usual + MEMORY_MIB


# -- the code itself -----------------------------------------------------------------------------------------------


def test_bandit_has_no_unanswered_finding() -> None:
    command = [sys.executable, "-m", "bandit", "-q", "-r", "ltx", "-c", "pyproject.toml", "-f", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)["results"]
    assert not [f"{one['filename']}:{one['line_number']} {one['test_id']} {one['issue_text']}" for one in found]
