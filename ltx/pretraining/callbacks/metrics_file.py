"""The training curves as a CSV file."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only

from ltx.runtime.atomic_files import write_atomically, writing


class MetricsFile(lightning.Callback):
    """Append a row to `metrics.csv` every `every` steps and after each validation.

    A resumed run drops the rows after its resume point, so that no step is listed twice, and a run from scratch drops
    all: before their first row or resume point, so that a run that dies earlier leaves the previous one's rows.

    Args:
        file: the CSV file. Columns are added when a metric first appears.
        every: optimiser steps between two training rows.
    """

    def __init__(self, file: Path, every: int) -> None:
        self.file = file
        self.every = every
        self._columns: list[str] = []
        self._start: int | None = None  # the resume point after which rows are still to be dropped
        self._start_time = time.monotonic()

    @rank_zero_only
    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._start = trainer.global_step

    @rank_zero_only
    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._drop_later_rows()

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step_ended = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if step_ended and trainer.global_step % self.every == 0:
            self._append(trainer, "train/")

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._append(trainer, "val/")

    def _drop_later_rows(self) -> None:
        start, self._start = self._start, None
        if start is None or not self.file.exists():
            return
        with self.file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            # A step is validated after its resume point is written: `DueValidations` repeats that validation.
            rows = [row for row in reader if int(row["step"]) + bool(row.get("val/loss")) <= start]
            self._columns = list(reader.fieldnames or [])
        self._write(rows)

    def _append(self, trainer: lightning.Trainer, prefix: str) -> None:
        self._drop_later_rows()
        logged = {name: value for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        values = torch.stack(list(logged.values())).tolist() if logged else []  # one read from the device
        # NaN = term not computed
        metrics = {name: value for name, value in zip(logged, values, strict=True) if not math.isnan(value)}
        lr = trainer.optimizers[0].param_groups[-1]["lr"]  # optimiser.lr: a trunk with a rate of its own comes first
        seconds = round(time.monotonic() - self._start_time, 2)
        row = {"step": trainer.global_step, "seconds": seconds, "lr": lr, **metrics}
        if set(row) <= set(self._columns):
            with writing(self.file), self.file.open("a", encoding="utf-8", newline="") as stream:
                csv.DictWriter(stream, self._columns).writerow(row)
            return
        rows: list[dict[str, Any]] = []
        if self.file.exists():
            with self.file.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
        self._columns += [name for name in row if name not in self._columns]
        self._write([*rows, row])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.file, text.getvalue().encode())
