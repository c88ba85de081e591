"""Logging a run to wandb, where the user asks for it; a failing wandb never stops a run."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from ltx.config import option


@dataclass
class WandbConfig:
    """Where the run is logged besides its own folder."""

    mode: str = option(
        "disabled", help="disabled, offline (sync later) or online", choices=["disabled", "offline", "online"]
    )
    project: str = option("ltx", help="project")
    entity: str | None = option(None, help="user or team; null = the account's default")
    name: str | None = option(None, help="name of the run; null = drawn by wandb")


def wandb_logger(config: WandbConfig, settings: dict[str, Any], out: Path) -> Logger | None:
    """The logger, or None where wandb is disabled or fails to start (with a warning that says why)."""
    if config.mode == "disabled":
        return None
    try:
        logger = WandbLogger(
            project=config.project,
            entity=config.entity,
            name=config.name,
            save_dir=str(out),
            offline=config.mode == "offline",
            config=settings,
        )
        _ = logger.experiment  # starts the run: a bad key or a missing network shows here
    except Exception as error:  # whatever wandb raises, the run is worth more than its log
        warnings.warn(f"wandb.mode={config.mode} failed ({error}); the run goes on without it", stacklevel=2)
        return None
    return logger


def finish(logger: Logger | None) -> None:
    """Write out what the logger still holds; a failure is a warning."""
    if logger is None:
        return
    try:
        logger.experiment.finish()  # type: ignore[attr-defined]
    except Exception as error:  # as above
        warnings.warn(f"wandb did not finish ({error}); the run itself is complete", stacklevel=2)
