"""A wandb that is absent, unreachable or dead: the training ends as it would have without it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ltx.pretraining.run import pretrain
from ltx.pretraining.wandb_logging import Tracker

ROOT = Path(__file__).parent.parent.parent


def test_not_installed(config_for: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match=r"wandb\.mode=offline failed .*; the run goes on without it"):
        out = pretrain(config_for(photos, tmp_path / "run", "wandb.mode=offline"))
    assert (out / "explainer.safetensors").is_file()


def test_it_is_given_up_at_the_first_failure() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        raise RuntimeError("gone")

    logger = Tracker.__new__(Tracker)
    with pytest.warns(UserWarning, match=r"wandb failed in logging \(gone\); the run goes on without it"):
        logger.attempt(fails, "logging")
    logger.attempt(fails, "logging")
    assert len(calls) == 1


def words(photos: Path, out: Path, mode: str) -> list[str]:
    return [
        *("classifier.name=resnet10t", "classifier.weights=random", "classifier.num_classes=4"),
        *("classifier.input_size=64", f"data.images={photos}", "data.workers=0", "data.batch_size=4"),
        *("trainer.max_steps=8", "trainer.validate_every=4", "trainer.log_every=1", "trainer.accelerator=cpu"),
        *("trainer.progress=false", "trainer.overlays=1", f"wandb.mode={mode}", f"out={out}"),
    ]


def trained(script: Path, arguments: list[str], **variables: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_its_process_dies_in_the_middle(photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "dying.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ltx.config.command_line import parse\n"
        "from ltx.pretraining.run import pretrain\n"
        "from ltx.pretraining.settings import TrainConfig\n"
        "from ltx.pretraining.ltx import LTXPretraining\n"
        "step = LTXPretraining.training_step\n"
        "def children(pid):\n"
        "    for place in Path('/proc').glob('[0-9]*/stat'):\n"
        "        try:\n"
        "            if int(place.read_text().rsplit(')', 1)[1].split()[1]) == pid:\n"
        "                yield int(place.parent.name)\n"
        "        except OSError:\n"
        "            pass\n"
        "def dying(self, batch, batch_idx):\n"
        "    if self.global_step == 3:\n"
        "        for pid in children(os.getpid()):\n"
        "            if b'wandb' in Path(f'/proc/{pid}/cmdline').read_bytes():\n"
        "                os.kill(pid, signal.SIGKILL)\n"
        "                print('killed wandb', flush=True)\n"
        "    return step(self, batch, batch_idx)\n"
        "LTXPretraining.training_step = dying\n"
        "pretrain(parse(TrainConfig, sys.argv[1:], 'train.py', ''))\n"
    )
    told = trained(script, words(photos, tmp_path / "out", "offline"))
    assert "killed wandb" in told
    assert told.count("the run goes on without it") == 1
    assert torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)["global_step"] == 8
    load_file(tmp_path / "out" / "explainer.safetensors")


@pytest.mark.slow
def test_no_server_answers(photos: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    told = trained(ROOT / "train.py", words(photos, tmp_path / "out", "online"), **nowhere)
    assert "wandb.mode=online failed" in told
    assert time.monotonic() - begun < 300
    load_file(tmp_path / "out" / "explainer.safetensors")
