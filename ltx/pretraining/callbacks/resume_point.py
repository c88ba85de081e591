"""The point that an interrupted training resumes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import lightning
from torch import Tensor

from ltx.runtime.errors import InputError


class SaveTensors(Protocol):
    """Writes the explainer next to a resume point; called on the first rank."""

    def __call__(self, trainer: lightning.Trainer, state: dict[str, Tensor], /) -> None:
        """Write the tensors of the LightningModule's `state`, which is complete under FSDP too."""


class ResumePoint(lightning.Callback):
    """Write the trainer's state to `last.ckpt`, and the explainer through `save`, every `every` steps and at the end.

    Both are written to a temporary file and then renamed, so a killed process leaves the previous ones intact. The
    final ones are written after the last validation, and `last.ckpt` after everything that `save` writes: a run that
    `last.ckpt` marks as finished is complete.

    A run resumes with the same number of images per optimiser step, on any number of devices that see the file, with
    any split into micro-batches. (Images in shards then come in another order, of which their data module warns.)

    Args:
        file: `OUT/last.ckpt`.
        every: optimiser steps between two writes.
        images_per_step: images per optimiser step on each device.
        save: writes the explainer's tensors.
    """

    def __init__(self, file: Path, every: int, images_per_step: int, save: SaveTensors) -> None:
        self.file = file
        self.every = every
        self.images_per_step = images_per_step
        self.save = save
        self._saved_step = -1
        self._state: dict[str, Tensor] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        first_rank_step = trainer.strategy.broadcast(trainer.global_step)
        if not trainer.strategy.reduce_boolean_decision(first_rank_step == trainer.global_step, all=True):
            raise InputError(
                f"{self.file} is not visible to all processes: some would resume from it and others would start from "
                "scratch; set out=… to a folder that all nodes share"
            )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = trainer.global_step % self.every == 0 and trainer.global_step < trainer.max_steps
        if due and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.write(trainer)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.write(trainer)

    def write(self, trainer: lightning.Trainer) -> None:
        """Save the current step unless it is saved already. Call it on every rank, between two optimiser steps."""
        if trainer.global_step == self._saved_step:
            return
        self._saved_step = trainer.global_step
        part = self.file.with_name(self.file.name + ".part")  # one name for all ranks
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            self.save(trainer, self._state)
            os.replace(part, self.file)
        self._state = {}
        # A rank that exits now, after a scheduler's signal, would end the first rank before its files are complete.
        trainer.strategy.barrier()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._state = checkpoint["state_dict"]
        checkpoint["images_a_step"] = self.images_per_step * trainer.world_size

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        current = self.images_per_step * trainer.world_size
        previous = checkpoint.get("images_a_step", current)
        if previous != current:
            raise InputError(
                f"{self.file} was written with {previous} images per step, now {current} (data.batch_size times "
                f"trainer.accumulate times the {trainer.world_size} devices); change them to make {previous} again, or "
                "choose another out=…, or resume=false to start from scratch there"
            )
        _convert_batch_counts(trainer.accumulate_grad_batches, checkpoint)


def _convert_batch_counts(accumulate: int, checkpoint: dict[str, Any]) -> None:
    """Rewrite Lightning's batch counters as if every step so far had had `accumulate` micro-batches."""
    steps = checkpoint["global_step"]
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        difference = steps * accumulate - counts["processed"]
        counts.update({stage: count + difference for stage, count in counts.items()})
