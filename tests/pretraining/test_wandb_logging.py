"""A wandb that is not installed, unreachable or killed: the training ends as it would without it."""

from __future__ import annotations

import shutil
import struct
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from wandb.proto.wandb_internal_pb2 import Record

from ltx.pretraining.run import run_pretraining
from ltx.pretraining.wandb_logging import MAX_FAILURES, Tracker
from tests.support.processes import patched_script, run_python
from tests.support.small_trainings import saved_step, small_training

BLOCK = 32768


def test_not_installed(config_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match=r"wandb\.mode=offline failed .*; the run continues without it"):
        out = run_pretraining(config_for("run", "wandb.mode=offline"))
    assert (out / "explainer.safetensors").is_file()


def test_a_failing_call_is_lost_alone_and_several_in_a_row_disable_wandb() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        raise RuntimeError("gone")

    logger = Tracker.__new__(Tracker)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"wandb failed in logging \(gone\); this call is lost"):
            logger.attempt(fails, "logging")
    logger.attempt(lambda: calls.append(0), "logging")
    assert calls == [1, 1, 0], "a later call still works"
    for _ in range(MAX_FAILURES - 1):
        with pytest.warns(UserWarning, match="this call is lost"):
            logger.attempt(fails, "logging")
    with pytest.warns(UserWarning, match=r"wandb failed in logging \(gone\); the run continues without it"):
        logger.attempt(fails, "logging")
    logger.attempt(fails, "logging")
    assert len(calls) == 3 + MAX_FAILURES


def test_an_offline_run_is_complete_in_a_copy_of_its_folder(
    config_for: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.write_text("not a folder, so nothing can be written below it")
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="wandb failed")
        out = run_pretraining(config_for("run", "wandb.mode=offline"))
    assert "&& wandb sync wandb/offline-run-" in capsys.readouterr().out
    (run_file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    assert eventually(lambda: b"explainer.safetensors" in run_file.read_bytes())
    copied = shutil.copytree(out, tmp_path / "elsewhere")
    shutil.rmtree(out)
    entries = [entry for record in records(copied / run_file.relative_to(out)) for entry in staged(record)]
    assert {entry.path for entry in entries} >= {"explainer.safetensors", "config.yaml", "explanations.table.json"}
    for entry in entries:
        assert not Path(entry.local_path).is_absolute()
        assert (copied / entry.local_path).stat().st_size == entry.size


def records(file: Path) -> Iterator[Any]:
    """The records of an offline run: a log in the format of LevelDB, after a header of seven bytes."""
    content, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = BLOCK - place % BLOCK
        if left < 7:  # too short for the header of a record
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def staged(record: Any) -> list[Any]:
    """The files that a record of an artifact refers to, of either kind of record."""
    artifacts = [record.artifact, record.request.log_artifact.artifact]
    return [entry for artifact in artifacts for entry in artifact.manifest.contents]


@pytest.mark.slow
def test_its_process_dies_during_training(photos: Path, tmp_path: Path) -> None:
    script = patched_script(
        tmp_path / "dying.py",
        "import signal\n"
        "from pathlib import Path\n"
        "def children(pid):\n"
        "    for place in Path('/proc').glob('[0-9]*/stat'):\n"
        "        try:\n"
        "            if int(place.read_text().rsplit(')', 1)[1].split()[1]) == pid:\n"
        "                yield int(place.parent.name)\n"
        "        except OSError:\n"
        "            pass\n"
        "def patched(self, batch, batch_idx):\n"
        "    if self.global_step == 3:\n"
        "        for pid in children(os.getpid()):\n"
        "            if b'wandb' in Path(f'/proc/{pid}/cmdline').read_bytes():\n"
        "                os.kill(pid, signal.SIGKILL)\n"
        "                print('killed wandb', flush=True)\n"
        "    return step(self, batch, batch_idx)\n",
    )
    printed = run_python(script, *small_training(photos, tmp_path / "out", "wandb.mode=offline"))
    assert "killed wandb" in printed
    assert printed.count("the run continues without it") == 1
    assert saved_step(tmp_path / "out") == 6
    load_file(tmp_path / "out" / "explainer.safetensors")


@pytest.mark.slow
def test_no_server_answers(photos: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    words = small_training(photos, tmp_path / "out", "wandb.mode=online")
    printed = run_python("train.py", *words, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)
    assert "wandb.mode=online failed" in printed
    assert time.monotonic() - start < 300
    load_file(tmp_path / "out" / "explainer.safetensors")
