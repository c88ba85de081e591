"""Optional logging to wandb; a failing wandb never stops a run."""

from __future__ import annotations

import os
import shlex
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

INIT_TIMEOUT, FINISH_TIMEOUT = 30, 300
"""Seconds to wait for a server that does not answer, before and after the training."""


MAX_FAILURES = 3
"""Consecutive failing calls after which wandb counts as gone."""


class Tracker(WandbLogger):
    """Lightning's wandb logger, whose exceptions never reach the training.

    A call that fails is lost, with a warning. After `MAX_FAILURES` calls in a row the logger is disabled, so that no
    later call waits for a wandb that is gone.
    """

    alive = True
    failures = 0

    def attempt(self, call: Callable[[], object], action: str) -> None:
        """Run `call` unless wandb is gone.

        Args:
            call: the wandb calls.
            action: what they do, for the warning.
        """
        if not self.alive:
            return
        try:
            call()
        except Exception as error:  # any error of wandb: the training is worth more than its log
            self.failures += 1
            self.alive = self.failures < MAX_FAILURES
            loss = "this call is lost" if self.alive else "the run continues without it"
            warnings.warn(f"wandb failed in {action} ({' '.join(str(error).split())}); {loss}", stacklevel=3)
        else:
            self.failures = 0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.attempt(lambda: super(Tracker, self).log_metrics(metrics, step), "logging the curves")

    def finalize(self, status: str) -> None:
        self.attempt(lambda: super(Tracker, self).finalize(status), "finishing")


def wandb_logger(config: WandbConfig, settings: dict[str, Any], out: Path) -> Tracker | None:
    """Start a wandb run.

    Returns:
        The logger; None if wandb is disabled, is not installed, or fails to start (with a warning that says why).
    """
    if config.mode == "disabled":
        return None
    _keep_below(out / "wandb")
    try:
        import wandb  # takes a second, which runs without wandb should not wait

        logger = Tracker(
            project=config.project,
            entity=config.entity,
            name=config.name,
            save_dir=str(out),
            offline=config.mode == "offline",
            config=settings,
            settings=wandb.Settings(
                init_timeout=INIT_TIMEOUT,
                finish_timeout=FINISH_TIMEOUT,
                quiet=config.mode == "offline",  # wandb's advice does not name the folder, see `_refer_relative_to`
            ),
        )
        run = logger.experiment  # starts the run, so that a bad key or a missing network fails here
        if config.mode == "offline":
            _refer_relative_to(out, run)
    except Exception as error:  # any error of wandb: the training is worth more than its log
        warnings.warn(f"wandb.mode={config.mode} failed ({error}); the run continues without it", stacklevel=2)
        return None
    return logger


def _keep_below(folder: Path) -> None:
    """Make wandb stage and cache files below a folder instead of the home, unless the user chose other places.

    An offline run refers to staged artifacts and tables by their paths, so a later `wandb sync` needs them.
    """
    for name, part in (("WANDB_DATA_DIR", "data"), ("WANDB_CACHE_DIR", "cache"), ("WANDB_CONFIG_DIR", "config")):
        previous = os.environ.get(name)
        if previous is None or previous == _chosen.get(name):
            os.environ[name] = _chosen[name] = str(folder.absolute() / part)


def _refer_relative_to(out: Path, run: Any) -> None:
    """Make an offline run name the staged files of artifacts by paths relative to `out`.

    wandb would write absolute paths, which are wrong once `out` was moved or copied to another machine. wandb opens
    relative ones from the current folder, so `wandb sync` must be called in `out`.
    """
    log_artifact = run.log_artifact

    def log_relative(artifact: Any, *arguments: Any, **options: Any) -> Any:
        for entry in artifact.manifest.entries.values():
            if entry.local_path and Path(entry.local_path).is_relative_to(out.absolute()):
                entry.local_path = os.path.relpath(entry.local_path, out)
        return log_artifact(artifact, *arguments, **options)

    run.log_artifact = log_relative


_chosen: dict[str, str] = {}
"""Environment variables that were set here, not by the user."""


@rank_zero_only
def log_overlays(logger: Tracker, explanation: Explanation, step: int) -> None:
    """Log the validation images with their masks as wandb draws them, and a table of their probabilities."""

    def log() -> None:
        import wandb

        records = [explanation.record(index) for index in range(len(explanation))]
        images = []
        for index, record in enumerate(records):
            arrays = explanation.arrays(index)
            kept = (arrays.get("mask", arrays["map"]) > 0.5).astype(np.uint8)
            masks = {"kept": {"mask_data": kept, "class_labels": {0: "removed", 1: "kept"}}}
            images.append(wandb.Image(arrays["image"], masks=masks, caption=record["label"]))
        columns: list[str | int] = list(records[0]) if records else []
        table = wandb.Table(columns=columns, data=[list(record.values()) for record in records])
        logger.experiment.log({"masks": images, "explanations": table, "trainer/global_step": step})

    logger.attempt(log, "logging the masks")


@rank_zero_only
def log_checkpoint(logger: Tracker | None, config: WandbConfig, out: Path, scores: dict[str, float], data: str) -> None:
    """Log the checkpoint folder as a new version of an artifact; in offline mode `wandb sync` uploads it."""
    if logger is None:
        return

    def log() -> None:
        import wandb

        artifact = wandb.Artifact(config.artifact, type="explainer", metadata={"scores": scores, "data": data})
        for file in (TENSORS, CONFIG, CARD):
            artifact.add_file(str(out / file), skip_cache=True)
        logger.experiment.log_artifact(artifact, aliases=list(config.aliases))

    logger.attempt(log, "sharing the checkpoint")


def finish_run(logger: Tracker | None, failed: bool = False) -> None:
    """Flush the logger and end the wandb run with its exit status; failures become warnings."""
    if logger is None:
        return
    advice = _how_to_upload(logger)
    logger.attempt(lambda: logger.experiment.finish(exit_code=int(failed)), "finishing")
    if advice and logger.alive:
        print(advice)


@rank_zero_only
def _how_to_upload(logger: Tracker) -> str:
    run, out = logger.experiment, logger.save_dir or "."
    if not run.offline:
        return ""
    folder = os.path.relpath(Path(run.dir).parent, out)
    return f"to upload the wandb run, from here or from a copy: cd {shlex.quote(out)} && wandb sync {folder}"
