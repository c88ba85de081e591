"""Implicit neural representation, one for each image (Byra & Skibbe, WACV 2025)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.explainers.inr import INRExplainer
from ltx.finetuning.finetune import finetune
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

Reward = Literal["logit", "log_probability"]
Variant = Literal["preserve", "delete", "dual"]


def inr(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    steps: int = 100,
    areas: int = 4,
    nested: bool = True,
    variant: Variant = "preserve",
    reward: Reward = "log_probability",
    lr: float = 1e-4,
    jitter: int = 8,
    seed: int = 0,
    max_batch: int = 64,
) -> Tensor:
    """A map of importance: the mean over areas of the masks of those areas, written by a network fitted to the image.

    See `fit_inr`, whose explanation this is the map of.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: classes `[B]`; None = the predicted ones.
        steps, areas, nested, variant, reward, lr, jitter, seed: see `fit_inr`.
        max_batch: masks at once.

    Returns:
        `[B, 1, H, W]` in [0, 1].
    """
    chosen = explained_classes(classifier, images, targets, max_batch)
    return fit_inr(
        classifier,
        images,
        chosen,
        steps=steps,
        areas=areas,
        nested=nested,
        variant=variant,
        reward=reward,
        lr=lr,
        jitter=jitter,
        seed=seed,
        max_batch=max_batch,
    ).maps


def fit_inr(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    steps: int = 100,
    areas: int = 4,
    nested: bool = True,
    variant: Variant = "preserve",
    reward: Reward = "log_probability",
    lr: float = 1e-4,
    jitter: int = 8,
    seed: int = 0,
    max_batch: int = 64,
    allowed: Tensor | None = None,
    names: list[str] | None = None,
) -> Explanation:
    """Fit a coordinate network to each image, from scratch and side by side; it then answers for any area.

    Published: areas drawn at random in training, a blurred fill, and a reward under the mask. The published area
    penalty, on the sorted mask, is left to make the borders crisp: the area itself holds exactly (see `INRExplainer`).

    Args:
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1].
        targets: classes `[B]`; None = the predicted ones.
        steps: optimiser steps; each takes `areas` passes of the classifier an image, twice as many if `dual`.
        areas: how many are drawn for each step, 0.02 to 0.8.
        nested: a smaller area's mask lies inside a larger one's; False = as published.
        variant: `preserve` the class by what is kept, `delete` it by what is removed, or both (`dual`).
        reward: what is preserved or deleted.
        lr: learning rate of AdamW.
        jitter: masked images are mirrored at random and moved by up to so many pixels.
        seed: of the networks' start and of all draws.
        max_batch: masks at once.
        allowed: `[B, 1, H, W]` in [0, 1], which pixels a mask may keep; None = all of them.
        names: one a picture, for the result.

    Returns:
        An `Explanation` whose `by_area` answers for any area.
    """
    sampling = AreaSampling(areas)
    return finetune(
        fresh_inr(classifier, nested, seed),
        images,
        targets,
        steps=steps,
        lr=lr,
        objective=area_objective(variant, reward),
        fill=Fill("blur"),
        seed=seed,
        max_batch=max(1, max_batch // areas),
        names=names,
        areas=sampling,
        jitter=jitter,
        allowed=allowed,
    )


def fresh_inr(classifier: Classifier, nested: bool, seed: int) -> INRExplainer:
    """An untrained network that reads no image; the same seed gives the same one, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(seeded(seed).get_state())  # `torch.manual_seed` would seed the caller's GPUs too
        return INRExplainer(classifier, trunk="none", nested=nested).to(classifier.device)


def area_objective(variant: Variant, reward: Reward) -> Objective:
    """What a mask of a given area should do.

    Raises:
        InputError: an unknown variant or reward.
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
"""Weight of the sorted mask's distance from a step, which is a matter of borders alone where the area holds."""
