"""Checkpoint and exit on a scheduler's signal or Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import lightning


class Preemption(lightning.Callback):
    """On SIGTERM or SIGUSR1 (a scheduler's notice) or SIGINT (Ctrl-C), finish the current step, call `save` and exit.

    The exit status is 128 plus the signal's number (143, 138 or 130): the job is not finished, and the same command
    resumes it. The ranks agree on the step, so it does not matter which of them received the signal. A second Ctrl-C
    is handled by Python. Lightning's own signal handling is replaced during training: it exits in the middle of a step
    without a checkpoint, and on SIGUSR1 under SLURM writes a checkpoint of its own, from which later runs in the
    folder would silently resume.

    Args:
        save: writes the resume point; called on every rank between two steps.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, save: Callable[[lightning.Trainer], None]) -> None:
        self.save = save
        self._received = 0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        # Lightning has installed its handlers before this hook and restores the original ones when training ends, for
        # whatever reason. Only the main thread can handle signals, and training runs in it.
        for number in self.SIGNALS:
            # A shell starts background jobs with Ctrl-C ignored, and it stays ignored.
            if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.global_step >= trainer.max_steps:
            return
        agree = trainer.strategy.reduce_boolean_decision
        if agree(bool(self._received), all=False):
            number = next(number for number in self.SIGNALS if agree(self._received == number, all=False))
            self.save(trainer)
            if trainer.is_global_zero:
                print(
                    f"stopped by {number.name} after step {trainer.global_step}; run the same command to resume",
                    flush=True,
                )
            # Not `trainer.should_stop`, which validates first: schedulers wait for half a minute only.
            raise SystemExit(128 + number)

    def _receive(self, number: int, _: Any) -> None:
        self._received = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
