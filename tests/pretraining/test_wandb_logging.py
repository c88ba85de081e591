"""A wandb that is not installed, unreachable or killed: the training ends as it would without it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ltx.pretraining.run import run_pretraining
from ltx.pretraining.wandb_logging import Tracker
from tests.support.processes import patched_script, run_python
from tests.support.small_trainings import saved_step, small_training


def test_not_installed(config_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match=r"wandb\.mode=offline failed .*; the run continues without it"):
        out = run_pretraining(config_for("run", "wandb.mode=offline"))
    assert (out / "explainer.safetensors").is_file()


def test_no_call_follows_the_first_failure() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        raise RuntimeError("gone")

    logger = Tracker.__new__(Tracker)
    with pytest.warns(UserWarning, match=r"wandb failed in logging \(gone\); the run continues without it"):
        logger.attempt(fails, "logging")
    logger.attempt(fails, "logging")
    assert len(calls) == 1


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
