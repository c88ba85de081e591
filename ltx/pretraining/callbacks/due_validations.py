"""Validations that Lightning's schedule leaves out."""

from __future__ import annotations

from typing import Any

import lightning


class DueValidations(lightning.Callback):
    """Validate after the last step, and repeat the validation of a step that a run is resumed from.

    The resume point of a step is written before the step is validated, and Lightning treats that validation as already
    run. Place this callback after those that write at validations, so that they have started.

    Args:
        every: optimiser steps between validations.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.global_step == 0 or trainer.global_step % self.every:
            return
        validation = trainer.fit_loop.epoch_loop.val_loop
        validation.restarting = False  # its counters belong to the previous validation
        trainer.validating = True
        validation.run()
        trainer.training = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # validates before it stops
