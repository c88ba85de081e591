"""A training among other jobs: told to stop it saves and exits, and the same command ends as if it had not been."""

from __future__ import annotations

import contextlib
import csv
import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ltx import Classifier, InputError, load
from ltx.config.command_line import run
from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig
from ltx.pretraining.callbacks import ResumePoint
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.operations import Preemption
from ltx.pretraining.run import pretrain
from ltx.pretraining.settings import TrainConfig
from ltx.runtime.ranks import launched_ranks, layout

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Tests in a shell's background inherit that Ctrl-C is ignored, and then it stays so."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture
def shards(photos: Path, tmp_path: Path) -> Path:
    make(MakeConfig(images=str(photos), out=str(tmp_path / "shards"), per_shard=2))
    return tmp_path / "shards"


@pytest.mark.parametrize(
    ("source", "told", "status"),
    [
        ("files", signal.SIGTERM, 143),
        ("shards", signal.SIGTERM, 143),
        ("files", signal.SIGUSR1, 138),
        ("files", signal.SIGINT, 130),
    ],
)
def test_a_signal_saves_and_the_same_command_goes_on(
    config_for: Any,
    photos: Path,
    shards: Path,
    tmp_path: Path,
    source: str,
    told: signal.Signals,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["trainer.checkpoint_every=100", "trainer.validate_every=4"]  # told to stop at a step that is due
    words += [f"data.shards={shards}"] if source == "shards" else []
    whole = pretrain(config_for(photos, tmp_path / "whole", *words))
    step = LTXPretraining.training_step

    def told_to_stop(self: LTXPretraining, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.global_step == 3:
            os.kill(os.getpid(), told)
        return step(self, batch, batch_idx)

    before = [signal.getsignal(number) for number in Preemption.SIGNALS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LTXPretraining, "training_step", told_to_stop)
        with pytest.raises(SystemExit) as ended:
            pretrain(config_for(photos, tmp_path / "cut", *words))
    assert ended.value.code == status
    assert [signal.getsignal(number) for number in Preemption.SIGNALS] == before
    assert f"stopped by {told.name} after step 4" in capsys.readouterr().out
    assert torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)["global_step"] == 4
    resumed = pretrain(config_for(photos, tmp_path / "cut", *words))
    assert [signal.getsignal(number) for number in Preemption.SIGNALS] == before
    first, second = load(whole).state_dict(), load(resumed).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    rows = [
        [{**row, "seconds": ""} for row in csv.DictReader((out / "metrics.csv").open())] for out in (whole, resumed)
    ]
    assert rows[0] == rows[1]
    pictures = [sorted(file.name for file in (out / "overlays").iterdir()) for out in (whole, resumed)]
    assert pictures[0] == pictures[1] == ["step_000004.png", "step_000006.png"]


def test_a_second_interrupt_ends_it_at_once(
    config_for: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(self: LTXPretraining, batch: dict[str, Any], batch_idx: int) -> Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(LTXPretraining, "training_step", impatient)
    before = signal.getsignal(signal.SIGINT)
    config = config_for(photos, tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        run(lambda _: pretrain(config), TrainConfig, "train.py", "", [])
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGINT) == before
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize(("told", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_process_group_leaves_the_loading_processes_to_the_step_that_ends(
    config_for: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: signal.Signals, status: int
) -> None:
    """A terminal's Ctrl-C, torchrun's and timeout's SIGTERM go to all processes of a group."""
    step = LTXPretraining.training_step

    def told_with_its_workers(self: LTXPretraining, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if batch_idx == 0:
            assert multiprocessing.active_children()
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                if os.getpgid(int(process.pid or 0)) == os.getpgid(0):
                    os.kill(int(process.pid or 0), told)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(LTXPretraining, "training_step", told_with_its_workers)
    with pytest.raises(SystemExit) as ended:
        pretrain(config_for(photos, tmp_path / "run", "data.workers=1", "trainer.accumulate=8"))
    assert ended.value.code == status
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 1


def test_processes_that_see_other_folders_do_not_train(tmp_path: Path) -> None:
    """Some would go on from the resume point and the others begin anew."""
    asked: list[bool] = []
    strategy = SimpleNamespace(
        broadcast=lambda step: 4, reduce_boolean_decision=lambda own, all: asked.append(own) or own
    )
    trainer: Any = SimpleNamespace(global_step=4, strategy=strategy)
    point = ResumePoint(tmp_path / "last.ckpt", 1, 4, lambda trainer, state: None)
    point.on_train_start(trainer, None)  # type: ignore[arg-type]
    trainer.global_step = 0
    with pytest.raises(InputError, match=r"do not all see .*last\.ckpt.* give an out=… that all nodes share"):
        point.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert asked == [True, False], "every process is asked, so that none waits"


def test_validation_images_of_which_none_can_be_read_are_an_error(
    config_for: Any, photos: Path, shards: Path, tmp_path: Path
) -> None:
    """Of one process among several: the others would wait for its scores."""
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        info = tarfile.TarInfo("bad.jpg")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"junk"))
    words = [f"data.shards={shards}", f"data.val_images={tmp_path / 'val.tar'}", "trainer.overlays=0"]
    with (
        pytest.warns(UserWarning, match="it is skipped"),
        pytest.raises(InputError, match=r"none of the validation images .* can be read"),
    ):
        pretrain(config_for(photos, tmp_path / "run", *words))


@pytest.mark.slow
def test_ctrl_c_reaches_every_process_and_is_saved(photos: Path, tmp_path: Path) -> None:
    """Two processes with a worker each, all told at once, as by a terminal."""
    out = tmp_path / "out"
    words = [
        *("classifier.name=resnet10t", "classifier.weights=random", "classifier.num_classes=4"),
        *("classifier.input_size=64", f"data.images={photos}", "data.workers=1", "data.batch_size=4"),
        *("trainer.max_steps=4000", "trainer.validate_every=4000", "trainer.log_every=1", "trainer.accelerator=cpu"),
        *("trainer.devices=2", "trainer.progress=false", "trainer.checkpoint_every=4000", f"out={out}"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 300
        while not (out / "metrics.csv").exists() or len((out / "metrics.csv").read_text().splitlines()) < 4:
            assert job.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        os.killpg(job.pid, signal.SIGINT)
        told, _ = job.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 130
    step = re.search(r"stopped by SIGINT after step (\d+); the same command goes on", told)
    assert step is not None
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == int(step[1])


def test_it_says_what_it_does_and_how_fast_it_was(
    config_for: Any,
    shards: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [f"data.shards={shards}/*.tar", "trainer.accumulate=2", "trainer.max_steps=16"]
    pretrain(config_for(photos, tmp_path / "run", *words))
    told = capsys.readouterr().out
    assert "8 training images in 4 shards, 2 validation images in 1 shards; 16 steps of 8 images on 1 x cpu" in told
    assert re.search(r"step 13: [\d.]+ images/s, \d+ s to go besides validations", told)
    pace = re.search(
        r"([\d.]+) images/s in training, ([\d.]+)% of the time waiting for data, peak memory ([\d.]+)", told
    )
    assert pace is not None
    assert 0 < float(pace[2]) < 100
    assert float(pace[3]) > 0.1


def test_too_few_shards_stop_before_anything_is_trained(
    config_for: Any, shards: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"4 shards .* 1 ranks x 5 workers = 5 readers; set data\.workers=4 or less"):
        pretrain(config_for(photos, tmp_path / "run", f"data.shards={shards}", "data.workers=5"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "tf_efficientnet_lite0"])
def test_checkpointed_activations_change_no_gradient(name: str) -> None:
    classifier = Classifier(name, weights="random", num_classes=5, input_size=64)
    images = torch.rand(2, 3, 64, 64, requires_grad=True)

    def gradient() -> Tensor:
        images.grad = None
        classifier(images)[:, 1].sum().backward()
        assert images.grad is not None
        return images.grad.clone()

    plain = gradient()
    classifier.checkpoint_activations()
    calls: list[str] = []
    blocks = [key for key, _ in classifier.model.named_modules() if re.fullmatch(r"(layer\d|blocks)\.1(\.0)?", key)]
    inner = classifier.model.get_submodule(blocks[-1])
    inner.register_forward_pre_hook(lambda *_: calls.append("forward"))
    assert torch.allclose(gradient(), plain, atol=1e-6 * float(plain.abs().max()))
    assert len(calls) == 2, "computed again for the gradient"


@pytest.mark.slow
def test_a_compiled_classifier_trains_to_rounding(config_for: Any, photos: Path, tmp_path: Path) -> None:
    plain = pretrain(config_for(photos, tmp_path / "plain"))
    compiled = pretrain(config_for(photos, tmp_path / "compiled", "trainer.compile=true"))
    first, second = load(plain).state_dict(), load(compiled).state_dict()
    assert all(torch.allclose(first[key], second[key], atol=3e-3) for key in first)
    assert Classifier("resnet18", weights="random").compile().fingerprint()


def test_no_rank_leaves_before_the_first_has_written(tmp_path: Path) -> None:
    """A rank that exits takes the others with it, whatever they are writing."""
    told: list[str] = []

    class Strategy:
        def barrier(self) -> None:
            told.append(f"barrier, {sorted(file.name for file in tmp_path.iterdir())}")

    class Run:
        global_step, is_global_zero, strategy = 3, True, Strategy()

        def save_checkpoint(self, file: Path) -> None:
            file.write_text("state")

    point = ResumePoint(tmp_path / "last.ckpt", 1, 2, lambda *_: told.append("tensors"))
    point.write(Run())  # type: ignore[arg-type]
    assert told == ["tensors", "barrier, ['last.ckpt']"]


def test_tasks_of_srun_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(InputError, match="srun started this command 8 times"):
        launched_ranks()
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launched_ranks() == (2, 8)


def test_devices_are_the_processes_that_torchrun_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to Lightning, each process on a CPU would train alone, into the same folder."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert layout("auto", 3) == ("auto", 3)
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("LOCAL_WORLD_SIZE", "4"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    assert layout("auto", 1) == layout(4, 2) == (4, 2)
    for devices, nodes in ((2, 1), ("auto", 4)):
        with pytest.raises(InputError, match="torchrun started 4 processes on each of 2 nodes; leave both out"):
            layout(devices, nodes)
