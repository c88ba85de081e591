"""Whether a folder contains an interrupted run of the same settings, and where it resumes."""

from __future__ import annotations

import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ltx.checkpoints.folder import CONFIG, TENSORS, read_config, read_record
from ltx.classifier.classifier import Classifier
from ltx.objectives.settings import ObjectiveConfig
from ltx.pretraining.settings import TrainConfig
from ltx.runtime.errors import InputError

FREE_SETTINGS = (
    *("out", "resume", "wandb.", "data.workers", "trainer.progress"),
    # `ResumePoint` compares their product.
    *("data.batch_size", "trainer.accumulate", "trainer.devices", "trainer.nodes"),
    *("trainer.accelerator", "trainer.strategy", "trainer.compile", "trainer.checkpoint_activations"),
    "trainer.fold_norms",
    *("teacher.cache", "teacher.max_batch", "data.cache"),
)
"""Settings, or groups of them, that may differ between a run and its resumption."""


def find_resume_point(config: TrainConfig, classifier: Classifier) -> str | None:
    """Path of the `last.ckpt` to resume from; None = start from scratch.

    Depends on nothing that is written before the first step, so that processes that start later get the same answer.

    Raises:
        InputError: the folder contains a run with other settings or another classifier, or a damaged one.
    """
    out = Path(config.out)
    point = out / "last.ckpt"
    if not config.resume or not point.is_file():
        return None
    fix = "choose another out=…, or resume=false to start from scratch there"
    try:
        previous = _flatten(read_config(out))
    except InputError as error:
        raise InputError(f"out={out} contains {point.name}, but no readable {CONFIG}; {fix}") from error
    fault = _fault(point)
    if fault:
        raise InputError(f"out={out}: {point.name} {fault}; {fix}")
    current = _flatten(asdict(config))
    # For settings that did not exist when the run started; the recipe, whose defaults are others, is younger.
    default = _flatten(asdict(replace(TrainConfig(), objective=ObjectiveConfig())))
    for name in sorted(previous.keys() | current.keys()):
        before = previous.get(name, default.get(name))
        if before != current.get(name) and not name.startswith(FREE_SETTINGS):
            raise InputError(f"out={out} contains a run with {name}={before}, now {current.get(name)}; {fix}")
    if (out / TENSORS).is_file() and read_record(out).fingerprint != classifier.fingerprint():
        raise InputError(f"out={out} contains a run with other weights of {classifier.name}; {fix}")
    return str(point)


def _fault(point: Path) -> str:
    """Why a file of `torch.save` cannot be resumed from; empty if it can. torch itself compares no checksums."""
    try:
        with zipfile.ZipFile(point) as stored:
            damaged = stored.testzip()
    except Exception:  # damage to its headers has many names
        damaged = point.name
    if damaged is not None:
        return "is incomplete or damaged"
    try:
        torch.load(point, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        return f"contains more than tensors and plain values, which could run code ({type(error).__name__})"
    return ""


def _flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {prefix[:-1]: settings}
    return {name: value for key, part in settings.items() for name, value in _flatten(part, f"{prefix}{key}.").items()}
