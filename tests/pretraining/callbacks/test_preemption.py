"""On a signal, training saves and exits; the resumed run ends with the same result as an uninterrupted one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ltx.config.command_line import run
from ltx.pretraining.callbacks.preemption import Preemption
from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import TrainConfig
from tests.support.processes import ROOT, environment
from tests.support.small_trainings import (
    assert_same_weights,
    metric_rows,
    saved_step,
    small_training,
    training_step_replaced,
)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Tests in a shell's background inherit that Ctrl-C is ignored, and it would stay ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize(
    ("source", "sent", "status"),
    [
        ("files", signal.SIGTERM, 143),
        ("shards", signal.SIGTERM, 143),
        ("files", signal.SIGUSR1, 138),
        ("files", signal.SIGINT, 130),
    ],
)
def test_a_signal_saves_and_the_same_command_resumes(
    config_for: Any,
    shards: Path,
    tmp_path: Path,
    source: str,
    sent: signal.Signals,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["trainer.checkpoint_every=100", "trainer.validate_every=4"]  # the run stops at a step that is validated
    words += [f"data.shards={shards}"] if source == "shards" else []
    whole = run_pretraining(config_for("whole", *words))

    def interrupted(step: Any, module: Any, batch: Any) -> Any:
        if module.global_step == 3:
            os.kill(os.getpid(), sent)
        return step(batch)

    handlers = [signal.getsignal(number) for number in Preemption.SIGNALS]
    with training_step_replaced(interrupted), pytest.raises(SystemExit) as ended:
        run_pretraining(config_for("cut", *words))
    assert ended.value.code == status
    assert [signal.getsignal(number) for number in Preemption.SIGNALS] == handlers
    assert f"stopped by {sent.name} after step 4" in capsys.readouterr().out
    assert saved_step(tmp_path / "cut") == 4
    resumed = run_pretraining(config_for("cut", *words))
    assert [signal.getsignal(number) for number in Preemption.SIGNALS] == handlers
    assert_same_weights(whole, resumed)
    assert metric_rows(whole) == metric_rows(resumed)
    pictures = [sorted(file.name for file in (out / "overlays").iterdir()) for out in (whole, resumed)]
    assert pictures[0] == pictures[1] == ["step_000004.png", "step_000006.png"]


def test_a_second_ctrl_c_ends_the_run_at_once(config_for: Any, tmp_path: Path) -> None:
    def impatient(step: Any, module: Any, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    handler = signal.getsignal(signal.SIGINT)
    config = config_for("run")
    with training_step_replaced(impatient), pytest.raises(SystemExit) as ended:
        run(lambda _: run_pretraining(config), TrainConfig, "train.py", "", [])
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGINT) == handler
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_process_group_does_not_end_the_loading_processes_of_the_running_step(
    config_for: Any, tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    """A terminal's Ctrl-C, and SIGTERM from torchrun or `timeout`, reach all processes of a group."""
    first = [True]

    def signals_the_group(step: Any, module: Any, batch: Any) -> Any:
        if first.pop() if first else False:
            assert multiprocessing.active_children()
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                if os.getpgid(int(process.pid or 0)) == os.getpgid(0):
                    os.kill(int(process.pid or 0), sent)
        return step(batch)

    with training_step_replaced(signals_the_group), pytest.raises(SystemExit) as ended:
        run_pretraining(config_for("run", "data.workers=1", "trainer.accumulate=8"))
    assert ended.value.code == status
    assert saved_step(tmp_path / "run") == 1


@pytest.mark.slow
def test_ctrl_c_reaches_every_process_and_is_saved(photos: Path, tmp_path: Path) -> None:
    """Two processes with a worker each, all of which receive the signal, as from a terminal."""
    out = tmp_path / "out"
    words = [f"trainer.{name}=4000" for name in ("max_steps", "validate_every", "checkpoint_every")]
    words = small_training(photos, out, *words, "data.workers=1", "trainer.devices=2")
    job = subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not (out / "metrics.csv").exists() or len((out / "metrics.csv").read_text().splitlines()) < 4:
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(job.pid, signal.SIGINT)
        printed, _ = job.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 130
    step = re.search(r"stopped by SIGINT after step (\d+); run the same command to resume", printed)
    assert step is not None
    assert saved_step(out) == int(step[1])
