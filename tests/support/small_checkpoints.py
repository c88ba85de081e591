"""A small explainer in a checkpoint folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from ltx.checkpoints.folder import save_checkpoint
from ltx.classifier.settings import ClassifierConfig
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig


def resnet18_weights(file: Path) -> Path:
    """Random weights of a `resnet18` with five classes, in a file."""
    torch.manual_seed(2)
    save_file(timm.create_model("resnet18", num_classes=5).state_dict(), file)
    return file


def small_checkpoint(folder: Path, weights: Path, half: bool = False, **settings: object) -> MaskNetwork:
    """Write an untrained explainer for the classifier of `resnet18_weights` into a folder, and return it."""
    classifier = ClassifierConfig(name="resnet18", weights=str(weights), num_classes=5, input_size=64)
    config = ExplainerConfig(**settings)  # type: ignore[arg-type] # any of its settings
    torch.manual_seed(3)
    explainer = config.build(classifier.build()).eval()
    groups = {"classifier": asdict(classifier), "explainer": asdict(config)}
    save_checkpoint(folder, explainer, groups, "# card\n", half)
    return explainer


def own_checkpoint(folder: Path) -> Path:
    """Write an untrained explainer of `tests.support.own_models:build` with seven classes into a folder."""
    options = {"classes": 7, "width": 4}
    classifier = ClassifierConfig(name="tests.support.own_models:build", options=options, input_size=64)
    config = ExplainerConfig(name="unet", width=4)
    groups = {"classifier": asdict(classifier), "explainer": asdict(config)}
    save_checkpoint(folder, config.build(classifier.build()), groups)
    return folder


OTHER_HEAD = {"options": {"classes": 3, "width": 4}, "class_names": ["cat", "dog", "owl"], "head": "sigmoid"}
"""Settings of another head for `own_checkpoint`."""
