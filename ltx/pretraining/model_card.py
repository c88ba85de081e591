"""The model card of a checkpoint."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path

import lightning
import timm
import torch

from ltx.checkpoints.folder import CARD
from ltx.explainers.mask_network import MaskNetwork
from ltx.pretraining.settings import TrainConfig

TITLE = "# Explainer for "
"""First words of a card, which distinguish it from a user's own README.md."""


def model_card(config: TrainConfig, explainer: MaskNetwork, scores: dict[str, float], step: int) -> str:
    """The model card in Markdown: classifier, data, objective, scores and versions.

    Args:
        config: settings of the training.
        explainer: the trained network.
        scores: validation scores, `val/NAME` to value.
        step: optimiser steps.
    """
    classifier = explainer.classifier
    terms = {name: value for name, value in asdict(config.objective).items() if value["weight"] != 0}
    conditioning = "conditioned on the class" if explainer.conditioned else "not conditioned"
    training = (
        f"{step} steps of {config.data.batch_size * config.trainer.accumulate} images per device, seed {config.seed}, "
        f"fill `{config.fill}`"
        + (f", from the weights of `{config.init}`" if config.init else "")
        + (f", taught by `{config.teacher.method}`" if "teacher" in terms else "")
    )
    lines = [
        f"{TITLE}{classifier.name}",
        "",
        "A mask network that writes, in one forward pass, the mask of the pixels that a prediction rests on. "
        "Load it with `ltx.load(folder)`; the classifier's weights are not part of it.",
        "",
        "| | |",
        "|---|---|",
        f"| classifier | `{classifier.name}`, {classifier.num_classes} classes, weights "
        f"`{config.classifier.weights or 'pretrained'}`, fingerprint `{classifier.fingerprint()}` |",
        f"| explainer | `{type(explainer).__name__}`, trunk `{config.explainer.trunk}`, {conditioning}, "
        f"{sum(p.numel() for p in explainer.parameters()):,} parameters |",
        f"| training images | `{config.data.shards or config.data.images}` (no labels used) |",
        f"| validation images | `{config.data.val_images or f'{100 * config.data.val_share:.3g}% held out'}` |",
        f"| training | {training} |",
        f"| versions | Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, "
        f"lightning {lightning.__version__} |",
        "",
        "Objective:",
        "",
        *(f"- `{name}`: " + ", ".join(f"{key} {value}" for key, value in term.items()) for name, term in terms.items()),
        "",
        "Scores on the validation images, one forward pass (`kept` and `removed`: the class's probability with only "
        "the pixels inside and only those outside the mask, as a share of the full image's; fill as in training):",
        "",
        "| score | value |",
        "|---|---|",
        *(f"| {name.removeprefix('val/')} | {value:.4f} |" for name, value in sorted(scores.items())),
        "",
    ]
    return "\n".join(lines)


def is_model_card(file: Path) -> bool:
    """Whether a file is a card written by `model_card`."""
    return file.is_file() and file.read_bytes().startswith(TITLE.encode())


def remove_previous_run(out: Path) -> None:
    """Remove the resume point and the model card of a previous run, and nothing else."""
    (out / "last.ckpt").unlink(missing_ok=True)
    if is_model_card(out / CARD):
        (out / CARD).unlink()
