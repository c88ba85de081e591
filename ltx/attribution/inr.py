"""Implicit neural representation, one for each image (Byra & Skibbe, WACV 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.explainers.inr import INRExplainer
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.masking.area_sampling import AreaSampling
from ltx.masking.fill import Fill
from ltx.objectives.area import Area
from ltx.objectives.keep import Keep
from ltx.objectives.objective import Objective
from ltx.objectives.remove import Remove
from ltx.objectives.settings import ObjectiveConfig
from ltx.objectives.smoothness import Smoothness
from ltx.results.explanation import Explanation
from ltx.runtime.errors import InputError
from ltx.runtime.seeds import seeded
from ltx.runtime.tensor_arguments import takes

Reward = Literal["logit", "log_probability"]
Variant = Literal["preserve", "delete", "dual"]


@dataclass(frozen=True)
class INRFit:
    """How a coordinate network is fitted to an image.

    Attributes:
        steps: optimiser steps; each takes `areas` classifier passes per image, twice as many if `dual`.
        areas: number of areas drawn per step, from 0.02 to 0.8.
        nested: the mask of a smaller area lies inside that of a larger one; False = as published.
        variant: `preserve` = the kept pixels preserve the class; `delete` = removing the pixels deletes it; `dual` =
            both.
        reward: the quantity that is preserved or deleted.
        lr: learning rate of AdamW.
        jitter: masked images are flipped at random and shifted by up to this many pixels.
        seed: random seed of the initialisation and of all draws.
    """

    steps: int = 100
    areas: int = 4
    nested: bool = True
    variant: Variant = "preserve"
    reward: Reward = "log_probability"
    lr: float = 1e-4
    jitter: int = 8
    seed: int = 0


def inr(
    classifier: Classifier, images: Tensor, targets: Tensor | None = None, *, max_batch: int = 64, **options: Any
) -> Tensor:
    """Importance map: the mean over areas of the masks of those areas, predicted by a network fitted to the image.

    These are the `maps` of the explanation that `fit_inr` returns.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        max_batch: maximum number of masks in a forward pass.
        options: fields of `INRFit`.

    Returns:
        Maps `[B, 1, H, W]` in [0, 1].
    """
    classes = explained_classes(classifier, images, targets, max_batch)
    return fit_inr(classifier, images, classes, INRFit(**options), max_batch=max_batch).maps


@takes(allowed="real [B, 1, H, W]")
def fit_inr(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    fit: INRFit | None = None,
    *,
    max_batch: int = 64,
    allowed: Tensor | None = None,
    names: list[str] | None = None,
) -> Explanation:
    """Fit one coordinate network per image, from scratch and in parallel; it predicts masks of any area.

    As published: areas are drawn at random during training, removed pixels are blurred, and the reward is computed
    under the mask. The published area penalty on the sorted mask only sharpens the borders here, because `INRExplainer`
    meets the area exactly.

    Args:
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        fit: settings of the fit; None = the defaults.
        max_batch: maximum number of masks in a forward pass.
        allowed: pixels that a mask may keep, `[B, 1, H, W]` in [0, 1]; None = all pixels.
        names: one name per image, for the result.

    Returns:
        An `Explanation`; its `by_area` predicts masks of any area.
    """
    fit = fit or INRFit()
    areas = AreaSampling(fit.areas)  # checks the number of areas
    settings = FinetuneSettings(
        lr=fit.lr,
        objective=area_objective(fit.variant, fit.reward),
        fill=Fill("blur"),
        seed=fit.seed,
        max_batch=max(1, max_batch // fit.areas),
        areas=areas,
        jitter=fit.jitter,
    )
    return finetune(
        fresh_inr(classifier, fit.nested, fit.seed),
        images,
        targets,
        fit.steps,
        settings,
        names=names,
        allowed=allowed,
    )


def fresh_inr(classifier: Classifier, nested: bool, seed: int) -> INRExplainer:
    """An untrained network without image features; its parameters depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(seeded(seed).get_state())  # `torch.manual_seed` would also seed the caller's GPUs
        return INRExplainer(classifier, trunk="none", nested=nested).to(classifier.device, non_blocking=True)


def area_objective(variant: Variant, reward: Reward) -> Objective:
    """Objective for a mask of a given area.

    Raises:
        InputError: unknown variant or reward.
    """
    if variant not in ("preserve", "delete", "dual"):
        raise InputError(f"variant={variant!r} is unknown; allowed: preserve, delete, dual")
    if reward not in ("logit", "log_probability"):
        raise InputError(f"reward={reward!r} is unknown; allowed: logit, log_probability")
    logit = reward == "logit"
    keeps, removes = float(variant != "delete"), float(variant != "preserve")
    return Objective(
        ObjectiveConfig(
            keep=Keep(weight=keeps, kind="logit" if logit else "cross_entropy"),
            remove=Remove(weight=removes, kind="logit" if logit else "probability"),
            area=Area(weight=CRISPNESS, kind="sorted"),
            smoothness=Smoothness(weight=0.0),
        )
    )


CRISPNESS = 10.0
"""Weight of the squared distance between the sorted mask and a step function; it sharpens the borders."""
