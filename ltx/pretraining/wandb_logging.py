"""Sharing a run through wandb, where the user asks for it; a failing wandb never stops a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from ltx.checkpoints.folder import CARD, CONFIG, TENSORS
from ltx.pretraining.settings import WandbConfig
from ltx.results.explanation import Explanation

START, FINISH = 30, 300
"""Seconds that a server that does not answer is waited for before the training, and after it."""


class Tracker(WandbLogger):
    """Lightning's logger, given up with a warning at its first failure: a dead wandb is not waited for twice.

    Nothing that it raises reaches the training.
    """

    alive = True

    def attempt(self, call: Callable[[], object], what: str) -> None:
        """Do `call` unless wandb failed before."""
        if not self.alive:
            return
        try:
            call()
        except Exception as error:  # whatever wandb raises, the run is worth more than its log
            self.alive = False
            warnings.warn(f"wandb failed in {what} ({error}); the run goes on without it", stacklevel=3)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.attempt(lambda: super(Tracker, self).log_metrics(metrics, step), "logging the curves")

    def finalize(self, status: str) -> None:
        self.attempt(lambda: super(Tracker, self).finalize(status), "finishing")


def wandb_logger(config: WandbConfig, settings: dict[str, Any], out: Path) -> Tracker | None:
    """The logger, or None where wandb is disabled, not installed or fails to start (with a warning that says why)."""
    if config.mode == "disabled":
        return None
    try:
        import wandb  # here, for it takes a second that other runs need not wait

        logger = Tracker(
            project=config.project,
            entity=config.entity,
            name=config.name,
            save_dir=str(out),
            offline=config.mode == "offline",
            config=settings,
            settings=wandb.Settings(init_timeout=START, finish_timeout=FINISH),
        )
        _ = logger.experiment  # starts the run: a bad key or a missing network shows here
    except Exception as error:  # whatever wandb raises, the run is worth more than its log
        warnings.warn(f"wandb.mode={config.mode} failed ({error}); the run goes on without it", stacklevel=2)
        return None
    return logger


@rank_zero_only
def share_overlays(logger: Tracker, found: Explanation, step: int) -> None:
    """The validation images with their masks as wandb draws them, and a table of their numbers."""

    def log() -> None:
        import wandb

        records = [found.record(index) for index in range(len(found))]
        images = []
        for index, record in enumerate(records):
            arrays = found.arrays(index)
            kept = (arrays.get("mask", arrays["map"]) > 0.5).astype(np.uint8)
            masks = {"kept": {"mask_data": kept, "class_labels": {0: "removed", 1: "kept"}}}
            images.append(wandb.Image(arrays["image"], masks=masks, caption=record["label"]))
        columns: list[str | int] = list(records[0]) if records else []
        table = wandb.Table(columns=columns, data=[list(record.values()) for record in records])
        shown = {"masks": images, "explanations": table, "trainer/global_step": step}
        logger.experiment.log(shown)

    logger.attempt(log, "logging the masks")


@rank_zero_only
def share_checkpoint(
    logger: Tracker | None, config: WandbConfig, out: Path, scores: dict[str, float], data: str
) -> None:
    """The checkpoint folder as a new version of an artifact that this run makes; offline, `wandb sync` uploads it."""
    if logger is None:
        return

    def log() -> None:
        import wandb

        artifact = wandb.Artifact(config.artifact, type="explainer", metadata={"scores": scores, "data": data})
        for file in (TENSORS, CONFIG, CARD):
            artifact.add_file(str(out / file))
        logger.experiment.log_artifact(artifact, aliases=list(config.aliases))

    logger.attempt(log, "sharing the checkpoint")


def finish(logger: Tracker | None, failed: bool = False) -> None:
    """Write out what the logger still holds, and whether the run failed; what goes wrong here is a warning."""
    if logger is not None:
        logger.attempt(lambda: logger.experiment.finish(exit_code=int(failed)), "finishing")
