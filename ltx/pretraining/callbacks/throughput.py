"""Throughput of a training run: images per second, time spent waiting for data, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import lightning
import torch
from lightning.pytorch.profilers import Profiler


class DataWait(Profiler):
    """Seconds that the training loop waits for its next batch; all other actions are ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._start_time = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self._start_time = time.monotonic()

    def stop(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self.seconds += time.monotonic() - self._start_time


class Throughput(lightning.Callback):
    """Print an estimate of the remaining time after a few steps, and summarise the speed at the end.

    Args:
        wait: the trainer's profiler.
        images_per_step: images per optimiser step on each device.
        warmup: steps that are not representative: workers start, kernels are chosen and compiled.

    Attributes:
        summary: one line, available after training; empty if no representative step was timed.
    """

    def __init__(self, wait: DataWait, images_per_step: int, warmup: int = 3) -> None:
        self.wait = wait
        self.images_per_step = images_per_step
        self.warmup = warmup
        self.summary = ""
        self._first_step = 0
        self._start_time = self._validation_seconds = self._wait_before = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._start(trainer.global_step)
        self._warm_step = trainer.global_step + self.warmup
        self._estimate_step = self._warm_step + 10

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if step == self._warm_step and step < trainer.max_steps:
            self._start(step)
        elif step == self._estimate_step and step < trainer.max_steps and trainer.is_global_zero:
            seconds = (time.monotonic() - self._start_time - self._validation_seconds) / (step - self._first_step)
            remaining = _duration(seconds * (trainer.max_steps - step))
            rate = self.images_per_step * trainer.world_size / seconds
            print(f"step {step}: {rate:.1f} images/s, {remaining} left, validations not included", flush=True)

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._validation_seconds -= time.monotonic()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._validation_seconds += time.monotonic()

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        steps = trainer.global_step - self._first_step
        seconds = time.monotonic() - self._start_time - self._validation_seconds
        if steps < 1 or seconds <= 0:
            return
        share = (self.wait.seconds - self._wait_before) / seconds
        rate = steps * self.images_per_step * trainer.world_size / seconds
        self.summary = (
            f"{rate:.1f} images/s in training, {share:.1%} of the time waiting for data, "
            f"peak memory {peak_memory(module.device) / 2**30:.2f} GiB per device"
        )

    def _start(self, step: int) -> None:
        self._first_step, self._start_time = step, time.monotonic()
        self._validation_seconds, self._wait_before = 0.0, self.wait.seconds


def peak_memory(device: torch.device) -> int:
    """Peak bytes allocated by torch on a GPU, or the peak resident size of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB on Linux


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
