"""What a pretraining run writes besides the network: metrics, pictures, and the point to resume from."""

from __future__ import annotations

import csv
import io
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor

from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.fill import Fill
from ltx.results.explanation import Explanation
from ltx.results.pictures import overlay_grid
from ltx.runtime.atomic_files import atomic_write, write_atomically
from ltx.runtime.errors import InputError


class MetricsFile(lightning.Callback):
    """Appends a row to `metrics.csv` every `every` steps and after each validation.

    A resumed run drops the rows after its resume point first, so that no step stands twice.
    """

    def __init__(self, file: Path, every: int) -> None:
        self.file = file
        self.every = every
        self._columns: list[str] = []
        self._started = time.monotonic()

    @rank_zero_only
    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not self.file.exists():
            return
        with self.file.open(newline="") as stream:
            reader = csv.DictReader(stream)
            # The validation of a step comes after its resume point: `DueValidations` makes it again.
            rows = [row for row in reader if int(row["step"]) + bool(row.get("val/loss")) <= trainer.global_step]
            self._columns = list(reader.fieldnames or [])
        self._write(rows)

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        accumulated = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if accumulated and trainer.global_step % self.every == 0:
            self._append(trainer, "train/")

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._append(trainer, "val/")

    def _append(self, trainer: lightning.Trainer, kind: str) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(kind)}
        found = {name: value for name, value in found.items() if not math.isnan(value)}  # terms that were left out
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"step": trainer.global_step, "seconds": round(time.monotonic() - self._started, 2), "lr": lr, **found}
        if set(row) <= set(self._columns):
            with self.file.open("a", newline="") as stream:
                csv.DictWriter(stream, self._columns).writerow(row)
            return
        rows: list[dict[str, Any]] = []
        if self.file.exists():
            with self.file.open(newline="") as stream:
                rows = list(csv.DictReader(stream))
        self._columns += [name for name in row if name not in self._columns]
        self._write([*rows, row])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.file, text.getvalue().encode())


class DueValidations(lightning.Callback):
    """Validates where Lightning would not: after the last step, and where a run goes on from a step that was due.

    A resume point is written before its step is validated, and Lightning holds that validation for done. Comes after
    the callbacks that write at validations, which must have started.

    Args:
        every: steps between validations.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.global_step == 0 or trainer.global_step % self.every:
            return
        validation = trainer.fit_loop.epoch_loop.val_loop
        validation.restarting = False  # its counters are those of the one before
        trainer.validating = True
        validation.run()
        trainer.training = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # validates first


class ResumePoint(lightning.Callback):
    """Every `every` steps, and at the end, writes the trainer's state to `last.ckpt` and has `save` write the tensors.

    Both are written beside and renamed: a killed process leaves the former ones. That of the last step comes after its
    validation, and `last.ckpt` after all that `save` writes: a run that it calls finished lacks nothing. The tensors
    are those of the whole network, also where every device holds a part of it.

    A run goes on with steps of as many images, on whatever number of devices, all of which must see the file, and in
    as many batches a step as fit them.

    Args:
        file: `OUT/last.ckpt`.
        every: steps between two writes.
        batch_size: images of a step on each device.
        save: called with (trainer, the network's tensors) on the first rank.
    """

    def __init__(
        self,
        file: Path,
        every: int,
        batch_size: int,
        save: Callable[[lightning.Trainer, dict[str, Tensor]], None],
    ) -> None:
        self.file = file
        self.every = every
        self.batch_size = batch_size
        self.save = save
        self._saved_at = -1
        self._tensors: dict[str, Tensor] = {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        first = trainer.strategy.broadcast(trainer.global_step)
        if not trainer.strategy.reduce_boolean_decision(first == trainer.global_step, all=True):
            raise InputError(
                f"the processes do not all see {self.file}, so that some would go on from it and others begin anew; "
                "give an out=… that all nodes share"
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
        """Save this step, between two optimiser steps, unless it is saved already; on every rank."""
        if trainer.global_step == self._saved_at:
            return
        self._saved_at = trainer.global_step
        part = self.file.with_name(self.file.name + ".part")  # one name for all ranks
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            self.save(trainer, self._tensors)
            os.replace(part, self.file)
        self._tensors = {}
        # A rank that left now, as told by a scheduler, would take the first one with it before its files are whole.
        trainer.strategy.barrier()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._tensors = checkpoint["state_dict"]
        checkpoint["images_a_step"] = self.batch_size * trainer.world_size

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        now = self.batch_size * trainer.world_size
        before = checkpoint.get("images_a_step", now)
        if before != now:
            raise InputError(
                f"{self.file} is of a run with steps of {before} images, now {now} (data.batch_size times "
                f"trainer.accumulate times the devices, {trainer.world_size}); change them to make {before} again, or "
                "choose another out=…, or resume=false to start anew there"
            )
        _count_in_batches_of(trainer.accumulate_grad_batches, checkpoint)


def _count_in_batches_of(accumulate: int, checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint's trainer have seen its steps in `accumulate` batches each; it counts batches, not steps."""
    steps = checkpoint["global_step"]
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for count in (progress["total"], progress["current"]):
        more = steps * accumulate - count["processed"]
        count.update({stage: seen + more for stage, seen in count.items()})


class CollapseWarning(lightning.Callback):
    """Warns after a validation whose masks are all but constant: too little or too much weight on the area."""

    def __init__(self, spread: float = 0.02) -> None:
        self.spread = spread

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        found = trainer.callback_metrics
        if trainer.sanity_checking or "val/mask_spread" not in found or found["val/mask_spread"] >= self.spread:
            return
        mean = float(found["val/mask_mean"])
        mend = "lower" if mean < 0.5 else "raise"
        warnings.warn(
            f"step {trainer.global_step}: the masks have collapsed (mean {mean:.3f}, spread over the image "
            f"{float(found['val/mask_spread']):.4f}); {mend} objective.area.weight",
            stacklevel=2,
        )


class Overlays(lightning.Callback):
    """Writes the masks of the same few validation images after each validation: `overlays/step_000100.png`.

    A run drops the pictures of steps after its resume point first, which a former one left.

    Args:
        folder: where the pictures go.
        explainer: the network in training.
        images: `[B, 3, H, W]` in [0, 1]; none = no pictures.
        show: called with (explanation of the images, step), for a logger that shows them.
        fill: what stands where pixels are removed; of several the first.
    """

    def __init__(
        self,
        folder: Path,
        explainer: MaskNetwork,
        images: Tensor,
        show: Callable[[Explanation, int], None] | None = None,
        fill: Fill | str = "black",
    ) -> None:
        self.explainer = explainer
        self.folder = folder
        self.images = images
        self.show = show
        self.fill = fill

    @rank_zero_only
    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        for picture in self.folder.glob("step_*.png"):
            step = picture.stem.removeprefix("step_")
            if step.isdigit() and int(step) > trainer.global_step:
                picture.unlink()

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.sanity_checking or not len(self.images):
            return
        with torch.no_grad():
            found = self.explainer.explain(self.images.to(module.device), fill=self.fill)
        records = [found.record(index) for index in range(len(found))]
        titles = [
            "{label}: {probability:.2f}, kept {probability_kept:.2f}, removed {probability_removed:.2f}".format(
                **record
            )
            for record in records
        ]
        assert found.mask is not None
        picture = overlay_grid(self.images, found.mask.cpu(), titles)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"step_{trainer.global_step:06d}.png"
        with atomic_write(file) as stream:
            Image.fromarray(picture).save(stream, format="png")
        if self.show is not None:
            self.show(found, trainer.global_step)
