"""`ltx.pretrain`: what `ltx train` does, from Python, for any classifier."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ltx.checkpoints.loading import load
from ltx.classifier.classifier import Classifier
from ltx.config.command_line import parse
from ltx.explainers.mask_network import MaskNetwork
from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import TrainConfig


def pretrain(
    classifier: Classifier | nn.Module | str | Callable[..., Any],
    images: Any = "scikit-image",
    steps: int = 1000,
    out: str | Path = "runs/pretrained",
    settings: Sequence[str] = (),
) -> MaskNetwork:
    """Train an explainer for a classifier on unlabelled images.

    Writes the same folder as `ltx train`, and resumes an interrupted run of the same settings in it.

        classifier = ltx.Classifier(module, input_size=64)
        explainer = ltx.pretrain(classifier, images="photos/", steps=1000, out="runs/mine")
        explanation = explainer.explain(images)

    The checkpoint can be loaded in another process if the classifier can be rebuilt from its settings, as it can for a
    name: `Classifier("resnet18")`, `"torchvision:resnet50"`, `"hf:FOLDER"` or `"my_package.models:build"`. For a module
    given as an object, pass the classifier again: `ltx.load("runs/mine", classifier)`.

    Args:
        classifier: the model to explain, or anything that `ltx.Classifier` takes. It is not changed.
        images: training images: a folder, file, glob, `.csv` listing, a list of them, or `scikit-image`.
        steps: optimiser steps.
        out: the checkpoint's folder.
        settings: further settings, written as for `ltx train`: `["data.batch_size=8", "objective.area.weight=3"]`,
            also `["config=configs/train/inr.yaml"]`.

    Returns:
        The trained explainer, in eval mode on the classifier's device.

    Raises:
        InputError: invalid settings, a folder that contains another run, or a loss that is not finite.
    """
    if not isinstance(classifier, Classifier):
        classifier = Classifier(classifier)
    config = parse(TrainConfig, [*settings, f"trainer.max_steps={steps}"], "ltx.pretrain", "")
    config = replace(config, out=str(out), data=replace(config.data, images=_paths(images)))
    device = classifier.device
    # Training moves and folds the classifier, which leaves its module as it is; these two settings change the module.
    changed = config.trainer.checkpoint_activations or config.trainer.compile
    trained = copy.deepcopy(classifier) if changed else copy.copy(classifier)
    try:
        run_pretraining(config, trained)
    finally:
        classifier.to(device)
    return load(out, classifier, device)


def _paths(images: Any) -> Any:
    """Paths as text, as they are in a configuration file."""
    if isinstance(images, Path):
        return str(images)
    return [_paths(one) for one in images] if isinstance(images, (list, tuple)) else images
