"""The settings of `ltx finetune`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ltx.config.options import check_ranges, option
from ltx.results.settings import ExplainConfig
from ltx.runtime.errors import InputError

SELECTIONS = ("positive", "negative", "deletion", "insertion")


@dataclass
class LoadedClassifierConfig:
    """What may differ from the training: where the weights are, and the precision."""

    weights: str | None = option(None, help="the classifier's weights, if not where they were in training")
    precision: str = option("fp32", help="of the classifier's forward pass", choices=["fp32", "bf16"])


@dataclass
class FinetuneConfig(ExplainConfig):
    """Adapt an explainer to each image and write the explanations."""

    checkpoint: str = option(
        "tf_efficientnet_lite0",
        help="folder that train.py wrote, the name of a shipped one, or wandb:ENTITY/PROJECT/NAME:ALIAS",
    )
    steps: int = option(25, help="optimiser steps for each image; 0 = the plain forward pass")
    scope: str = option("decoder", help="parameters that each image adapts", choices=["head", "decoder", "all"])
    lr: float | None = option(
        None, help="learning rate of AdamW; null = 1e-3, of a siren 3e-4, with scope=all (a trunk of its own) 1e-4"
    )
    area_weight: float | None = option(
        None, help="weight of the objective's area term (not of an INR); null = as in training"
    )
    fill: Any = option(
        "black",
        help="what replaces removed pixels: black, mean, blur, noise, random or a list, whose first is reported",
    )
    select_by: str | None = option(
        None,
        help="keep the step whose map is best by the image's own AUC (the papers' rule); null = the last step",
        choices=[*SELECTIONS, None],
    )
    classifier: LoadedClassifierConfig = option(LoadedClassifierConfig, help="the explained model")
    seed: int = option(0, help="of the draws of fills and terms")

    def __post_init__(self) -> None:
        check_ranges("", self, steps=(0, math.inf), batch_size=(1, math.inf), seed=(-(2**63), 2**63 - 1))
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise InputError(f"lr={self.lr}; give a positive learning rate")
