"""Settings of `ltx finetune`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ltx.classifier.choices import HEADS
from ltx.config.options import check_ranges, option
from ltx.objectives.keep import KEEP_KINDS
from ltx.results.settings import ExplainConfig
from ltx.runtime.errors import InputError

SELECTIONS = ("positive", "negative", "deletion", "insertion")


@dataclass
class LoadedClassifierConfig:
    """Settings of the explained model that differ from training; null = as in training.

    The head may be another one than in training, on the same or a finetuned trunk.
    """

    name: str | None = option(
        None, help="the model by name, such as package.module:function of your own", path=True, imports=True
    )
    options: dict[str, Any] = option({}, help="keyword arguments for the function that builds the model")
    weights: str | None = option(
        None, help="FILE with the classifier's weights, for instance of a finetuned head", path=True
    )
    num_classes: int | None = option(None, help="number of classes of a finetuned head")
    class_names: Any = option(None, help="FILE with one name per line, or a list", path=True)
    head: str | None = option(None, help="how logits become probabilities", choices=[*HEADS, None])
    precision: str = option("fp32", help="precision of the classifier's forward pass", choices=["fp32", "bf16"])


@dataclass
class LoadedExplainerConfig:
    """The explainer that a command loads with its classifier, see `ltx.load`."""

    checkpoint: str = option(
        "tf_efficientnet_lite0",
        help="folder of a trained explainer, name of a shipped one, or wandb:ENTITY/PROJECT/NAME:ALIAS",
        path=True,
    )
    trust: bool = option(False, help="let the checkpoint import and call the function that builds its classifier")
    classifier: LoadedClassifierConfig = option(LoadedClassifierConfig, help="the explained model")


@dataclass
class FinetuneConfig(LoadedExplainerConfig, ExplainConfig):
    """Finetune an explainer on each image and write the explanations."""

    steps: int = option(25, help="optimiser steps for each image; 0 = one forward pass; 10 = about 60 % of 25's gain")
    scope: str = option("decoder", help="parameters that are adapted to each image", choices=["head", "decoder", "all"])
    lr: float | None = option(
        None,
        help="learning rate of AdamW; null = 1e-3, the best at any number of steps (siren: 3e-4; scope=all with an own "
        "trunk: 1e-4)",
    )
    area_weight: float | None = option(
        None, help="weight of the objective's area term (not for an INR); null = as in training"
    )
    keep: str | None = option(
        None,
        help="kind of the objective's keep term: kl preserves a low probability instead of raising it; null = as in "
        "training",
        choices=[*KEEP_KINDS, None],
    )
    fill: Any = option(
        "black",
        help="fill for removed pixels: black, mean, blur, noise, random or a list, whose first is reported",
    )
    select_by: str | None = option(
        None,
        help="of the maps before each step, keep the best by the image's own AUC (the papers' rule); null = the last",
        choices=[*SELECTIONS, None],
    )
    alternate: bool = option(
        False,
        help="alternate between the terms of the mask and those of its order, at half of the passes per step",
    )
    detail: bool = option(
        True, help="vision transformers: masks that differ within patches, 4 x 4 pixels; false = one value per patch"
    )
    seed: int = option(0, help="random seed of fills and terms")

    def __post_init__(self) -> None:
        check_ranges("", self, steps=(0, math.inf), batch_size=(1, math.inf), seed=(-(2**63), 2**63 - 1))
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise InputError(f"lr={self.lr}; give a positive learning rate")
