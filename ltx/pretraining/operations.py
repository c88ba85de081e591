"""A training as a job among others: it stops when it is told to, and says how fast it went and what it waited for."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import lightning
import torch
from lightning.pytorch.profilers import Profiler


class Preemption(lightning.Callback):
    """On SIGTERM or SIGUSR1 (a scheduler's notice) or SIGINT (Ctrl-C) calls `save` after the running step and exits.

    The status is 128 plus the signal's number, 143, 138 or 130: the job is not done, and the same command goes on. The
    ranks agree on the step, so that it does not matter which of them were told. Python's handler answers a second
    Ctrl-C. Lightning's own handling is replaced while training: it leaves in the middle of a step and without a
    checkpoint, and at SIGUSR1 on SLURM writes one of its own, which later runs in the folder would silently go on from.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, save: Callable[[lightning.Trainer], None]) -> None:
        self.save = save
        self._told = 0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        # After Lightning has set its own, and before it restores the former ones, whatever ends the training. Signals
        # can only be handled in the main thread, where trainings run.
        for number in self.SIGNALS:
            # In a shell's background Ctrl-C is ignored, and stays so.
            if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._tell)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.global_step >= trainer.max_steps:
            return
        agreed = trainer.strategy.reduce_boolean_decision
        if agreed(bool(self._told), all=False):
            number = next(number for number in self.SIGNALS if agreed(self._told == number, all=False))
            self.save(trainer)
            if trainer.is_global_zero:
                print(
                    f"stopped by {number.name} after step {trainer.global_step}; the same command goes on", flush=True
                )
            # Not `trainer.should_stop`, which validates first: schedulers wait for half a minute only.
            raise SystemExit(128 + number)

    def _tell(self, number: int, _: Any) -> None:
        self._told = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class DataWait(Profiler):
    """Seconds that the training loop waits for its next batch; all other actions are ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._since = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self._since = time.monotonic()

    def stop(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self.seconds += time.monotonic() - self._since


class Pace(lightning.Callback):
    """Says after a few steps how long the training will take, and at its end how fast it was.

    Args:
        wait: what the trainer has as its profiler.
        batch_size: images of an optimiser step on each device.
        after: steps that are not representative: workers start, kernels are chosen and compiled.
    """

    def __init__(self, wait: DataWait, batch_size: int, after: int = 3) -> None:
        self.wait = wait
        self.batch_size = batch_size
        self.after = after
        self.summary = ""
        self._first = 0
        self._begun = self._validating = self._waited = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._start(trainer.global_step)
        self._warm_at = trainer.global_step + self.after
        self._tell_at = self._warm_at + 10

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if step == self._warm_at and step < trainer.max_steps:
            self._start(step)
        elif step == self._tell_at and step < trainer.max_steps and trainer.is_global_zero:
            seconds = (time.monotonic() - self._begun - self._validating) / (step - self._first)
            left = _duration(seconds * (trainer.max_steps - step))
            rate = self.batch_size * trainer.world_size / seconds
            print(f"step {step}: {rate:.1f} images/s, {left} to go besides validations", flush=True)

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._validating -= time.monotonic()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._validating += time.monotonic()

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        steps = trainer.global_step - self._first
        seconds = time.monotonic() - self._begun - self._validating
        if steps < 1 or seconds <= 0:
            return
        share = (self.wait.seconds - self._waited) / seconds
        rate = steps * self.batch_size * trainer.world_size / seconds
        self.summary = (
            f"{rate:.1f} images/s in training, {share:.1%} of the time waiting for data, "
            f"peak memory {peak_memory(module.device) / 2**30:.2f} GiB a device"
        )

    def _start(self, step: int) -> None:
        self._first, self._begun, self._validating, self._waited = step, time.monotonic(), 0.0, self.wait.seconds


def peak_memory(device: torch.device) -> int:
    """The most bytes that torch held on a GPU, or this process in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
