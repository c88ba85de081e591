"""Writes the checkpoint folder of a training run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import lightning
from torch import Tensor

from ltx.checkpoints.folder import save_checkpoint
from ltx.explainers.mask_network import MaskNetwork
from ltx.pretraining.model_card import model_card, remove_previous_run
from ltx.pretraining.settings import TrainConfig
from ltx.pretraining.wandb_logging import Tracker, log_checkpoint


class CheckpointWriter:
    """Write the explainer and its configuration and, after the last step, the model card and the wandb artifact.

    Called by `ResumePoint` on the first rank.

    Args:
        config: settings of the training; `config.out` is the folder.
        explainer: the network in training.
        data: one line on the training and validation images, for the artifact.
        logger: the wandb run; None = none.
        from_scratch: whether a previous run in the folder is replaced. Its resume point and card are removed at the
            first write, so that a run that dies before it leaves the previous one intact.
    """

    def __init__(
        self,
        config: TrainConfig,
        explainer: MaskNetwork,
        data: str,
        logger: Tracker | None = None,
        from_scratch: bool = False,
    ) -> None:
        self.config = config
        self.explainer = explainer
        self.data = data
        self.logger = logger
        self.from_scratch = from_scratch

    def __call__(self, trainer: lightning.Trainer, state: dict[str, Tensor]) -> None:
        """Write the tensors of the LightningModule's `state` (names `explainer.*`) at the trainer's step."""
        out, settings = Path(self.config.out), asdict(self.config)
        if self.from_scratch:
            remove_previous_run(out)
            self.from_scratch = False
        tensors = {name.removeprefix("explainer."): value for name, value in state.items()}
        max_steps = self.config.trainer.max_steps
        if trainer.global_step < max_steps:
            save_checkpoint(out, self.explainer, settings, tensors=tensors)
            return
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        card = model_card(self.config, self.explainer, scores, max_steps)
        save_checkpoint(out, self.explainer, settings, card, tensors=tensors)
        log_checkpoint(self.logger, self.config.wandb, out, scores, self.data)
