"""Per-instance finetuning: each image adapts its own copy of the explainer's parameters, many images at once."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ltx.classifier.class_names import Targets, one_each
from ltx.explainers.mask_network import MaskNetwork, checked, describe, evaluating
from ltx.finetuning.parameter_copies import Copies
from ltx.finetuning.settings import SELECTIONS
from ltx.masking.area_sampling import AreaSampling
from ltx.masking.fill import Fill
from ltx.masking.jitter import draw_jitter
from ltx.metrics.perturbation import Order, Prediction, curves, read_logits
from ltx.objectives.area_rows import rows_of_areas
from ltx.objectives.masked_batch import MaskedBatch
from ltx.objectives.objective import Objective
from ltx.objectives.settings import ObjectiveConfig
from ltx.objectives.terms import scheduled
from ltx.results.explanation import Explanation
from ltx.runtime.errors import InputError, suggest
from ltx.runtime.seeds import seeded

TRUNK_LR = 1e-4
FRACTIONS = tuple(step / 10 for step in range(10))


@torch.inference_mode(False)
@torch.enable_grad()
def finetune(
    explainer: MaskNetwork,
    images: Tensor,
    targets: Targets = None,
    steps: int = 25,
    scope: str = "decoder",
    lr: float | None = None,
    objective: Objective | None = None,
    fill: Fill | str = "black",
    select_by: str | None = None,
    seed: int = 0,
    max_batch: int = 16,
    names: list[str] | None = None,
    areas: AreaSampling | None = None,
    jitter: int = 0,
    allowed: Tensor | None = None,
    starts: Sequence[MaskNetwork] | None = None,
) -> Explanation:
    """Adapt an explainer to each of many images, and explain them; the explainer itself stays as it was.

    Every image owns a copy of the adapted parameters, stacked along a first axis and trained together: AdamW works
    element by element, the losses are summed, and random draws are shared by all images, so an image's result
    depends on its neighbours by rounding alone. That is 1e-5 of the mask after a step, but steps of this size amplify
    it: after five, single pixels differ by a half. The same batch gives the same bytes. The answer is the last step's
    mask.

    A step takes one pass of the decoder and one of the classifier over all masked images, both forwards and
    backwards. The trunk's features are computed once where the trunk is not adapted.

    Args:
        explainer: a trained mask network; `explainer.classifier` is explained.
        images: `[B, 3, H, W]` in [0, 1], at the classifier's input size.
        targets: the classes asked about; None = predicted.
        steps: optimiser steps for each image; 0 = the plain forward pass.
        scope: which parameters are adapted: `head`, `decoder`, or `all` (own trunk included).
        lr: learning rate of AdamW; None = 1e-3, of a siren 3e-4, with `scope="all"` (a trunk of its own) 1e-4.
        objective: what a good mask is; None = the objective that the explainer was trained with.
        fill: what stands where pixels are removed, while adapting; in the reported probabilities, of several the first.
        select_by: None, or the papers' rule: after every step keep the mask that is best by the image's own `positive`,
            `negative`, `deletion` or `insertion` AUC (`ltx` protocol, black). Such a map is chosen by the metric
            it may be reported with; `Explanation.selected_by` says so. Costs 9 passes of the classifier a step.
        seed: of the draws of fills and terms.
        max_batch: images adapted at once; bounds memory and changes no result.
        names: one a picture, for the result.
        areas: which areas a network that takes them is asked for in each step; None = as in its training.
        jitter: masked images are shifted by up to so many pixels and mirrored at random; 0 = not.
        allowed: `[B, 1, H, W]` in [0, 1], which pixels a mask may keep; None = all of them.
        starts: networks that the copies start from, one an image; None = the explainer itself.

    Raises:
        InputError: unknown scope, class, rule or fill, negative steps, no learning rate, images of a wrong shape or
            range, `names`, `allowed` or `starts` that do not match them, or a loss or mask that is not finite.
    """
    if steps < 0 or max_batch < 1 or jitter < 0:
        raise InputError(
            f"steps={steps}, max_batch={max_batch}, jitter={jitter}; need steps >= 0, max_batch >= 1, jitter >= 0"
        )
    if select_by is not None and select_by not in SELECTIONS:
        raise InputError(
            f"select_by={select_by!r} is unknown; allowed: {', '.join(SELECTIONS)}{suggest(select_by, SELECTIONS)}"
        )
    if select_by is not None and explainer.takes_areas:
        raise InputError(f"select_by={select_by} chooses one map; this explainer has one for every area: leave it out")
    images = checked(explainer.classifier, images)
    listed = one_each(targets, len(images))
    classes = None if listed is None else explainer.classifier.classes(listed)
    if names is not None and len(names) != len(images):
        raise InputError(f"{len(names)} names for {len(images)} images; give one for each image")
    lr = learning_rate(explainer, scope) if lr is None else lr
    if not 0 < lr < math.inf:
        raise InputError(f"lr={lr}; give a positive learning rate")
    seeded(seed)  # refuses what no generator takes, before any work
    allowed = None if allowed is None else allowed.to(images)
    _check_rows(images, allowed, starts)
    classifier, fill = explainer.classifier, fill if isinstance(fill, Fill) else Fill(fill)
    objective = Objective(trained_objective(explainer)) if objective is None else objective
    if steps and not any(w for name, w in objective.weights(1.0).items() if not objective.terms[name].only_in_training):
        only = ", ".join(name for name, term in objective.terms.items() if term.only_in_training)
        raise InputError(f"no term weighs at the end of this objective's training but {only}, which finetuning lacks")
    begun = time.perf_counter()
    areas = trained_areas(explainer) if areas is None else areas
    parts: list[_Adapted] = []
    with evaluating(explainer):
        for start in range(0, len(images), max_batch):
            part = images[start : start + max_batch]
            asked = None if classes is None else classes[start : start + max_batch]
            with torch.no_grad():
                unmasked_logits, found = explainer.predict_and_encode(part)
            indices = classifier.targets(asked, unmasked_logits)
            own = None if starts is None else starts[start : start + max_batch]
            copies = Copies(explainer, scope, len(part), found, part, own)
            free = None if allowed is None else allowed[start : start + max_batch]
            maps = _adapt(
                copies, part, indices, unmasked_logits, objective, fill, steps, lr, select_by, seed, areas, jitter, free
            )
            # Copies that nobody asks again must not pile up over the parts, nor any copy's gradients.
            copies.finish()
            parts.append(_Adapted(copies if explainer.takes_areas else None, indices, unmasked_logits, free, maps))
    seconds = (time.perf_counter() - begun) / len(images)
    maps, chosen, whole = (
        torch.cat([getattr(p, key) for p in parts]) for key in ("maps", "targets", "unmasked_logits")
    )

    def ask(asked: Tensor, size: tuple[int, int] | None) -> Tensor:
        return torch.cat([p.masks(x, size) for p, x in zip(parts, asked.split(max_batch), strict=True)])

    answers = ask if explainer.takes_areas else None
    explanation = describe(
        classifier, images, maps, chosen, whole, fill, names, explainer.method, steps, seconds, answers, max_batch
    )
    explanation.selected_by = select_by if steps else None
    return explanation


def _check_rows(images: Tensor, allowed: Tensor | None, starts: Sequence[MaskNetwork] | None) -> None:
    if starts is not None and len(starts) != len(images):
        raise InputError(f"starts: {len(starts)} networks for {len(images)} images; give one for each image")
    if allowed is None:
        return
    wanted = (len(images), 1, *images.shape[-2:])
    if tuple(allowed.shape) != wanted:
        raise InputError(f"allowed has shape {tuple(allowed.shape)}; give {wanted}")
    if not bool(((allowed >= 0) & (allowed <= 1)).all()):
        raise InputError(f"allowed has values from {allowed.min():g} to {allowed.max():g}; give shares from 0 to 1")


@dataclass
class _Adapted:
    """Some images' own copies and what they are asked about."""

    copies: Copies | None
    targets: Tensor
    unmasked_logits: Tensor
    allowed: Tensor | None
    maps: Tensor

    def masks(self, areas: Tensor, size: tuple[int, int] | None) -> Tensor:
        assert self.copies is not None
        scores = self.copies.scores(self.targets, areas, size)
        return self.copies.explainer.masks(scores, areas, self.allowed, size)


def _adapt(
    copies: Copies,
    images: Tensor,
    targets: Tensor,
    unmasked_logits: Tensor,
    objective: Objective,
    fill: Fill,
    steps: int,
    lr: float,
    select_by: str | None,
    seed: int,
    areas: AreaSampling,
    jitter: int,
    allowed: Tensor | None,
) -> Tensor:
    """Maps `[B, 1, H, W]` after `steps` steps, or the best of them by `select_by`."""
    explainer = copies.explainer
    # Adam turns a gradient that is zero but for rounding into a full step; a larger eps lets a batch equal its images.
    adamw = torch.optim.AdamW(list(copies.parameters.values()), lr=lr, weight_decay=0.0, eps=1e-6)
    generator = seeded(seed)
    select = Selection(select_by, explainer, images, targets, unmasked_logits) if select_by is not None else None
    for step in range(steps):
        asked = areas.draw(images, generator, shared=True) if explainer.takes_areas else None
        scores = copies.scores(targets, asked).float()
        if select is not None and step > 0:
            with torch.no_grad():
                select(explainer.masks(scores, allowed=allowed))
            if select.finished:
                return select.masks
        judged = MaskedBatch(
            classifier=explainer.classifier,
            images=images,
            background=fill(images, generator, shared=True),
            targets=targets,
            unmasked_logits=unmasked_logits,
            scores=scores,
            mask=explainer.masks(scores, asked, allowed),
            generator=generator,
            shared_draws=True,
            allowed=allowed,
            jitter=draw_jitter(jitter, generator),
        )
        if asked is None:
            loss = objective(judged, progress=1.0).loss
        else:
            loss = objective(rows_of_areas(judged, asked), progress=1.0).loss.view_as(asked).mean(1)
        if not loss.detach().isfinite().all():
            raise InputError(f"finetuning: the loss is not finite at step {step}; lower lr={lr}")
        adamw.zero_grad()
        loss.sum().backward()
        adamw.step()
    with torch.no_grad():
        maps = explainer.masks(copies.scores(targets), allowed=allowed).mean(1, keepdim=True)
    if not maps.isfinite().all():
        raise InputError(f"finetuning: the masks are not finite after {steps} steps; lower lr={lr}")
    if select is None:
        return maps
    select(maps)
    return select.masks


class Selection:
    """The released rule: of the masks that finetuning passes through, keep each image's best by one of its own curves.

    An image is done, and its mask fixed, at a positive AUC below 6 or a negative AUC above 89 (`ltx` protocol).
    """

    def __init__(
        self, rule: str, explainer: MaskNetwork, images: Tensor, targets: Tensor, unmasked_logits: Tensor
    ) -> None:
        self.rule, self.explainer, self.images, self.targets = rule, explainer, images, targets
        self.unmasked: Prediction = read_logits(explainer.classifier, unmasked_logits, targets)
        self.highest_first = rule in ("positive", "deletion")
        self.best = torch.full((len(images),), float("inf"), device=images.device)
        self.done = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.masks = torch.zeros_like(images[:, :1])

    def __call__(self, masks: Tensor) -> None:
        """Consider masks `[B, 1, H, W]`."""
        order: Order = "highest" if self.highest_first else "lowest"
        found = curves(
            self.explainer.classifier,
            self.images,
            masks,
            self.targets,
            FRACTIONS,
            torch.zeros_like(self.images),
            orders=(order,),
            unmasked=self.unmasked,
        )[order]
        heights = found.correct.float() if self.rule in ("positive", "negative") else found.probability
        area = 100 * torch.trapezoid(heights, dx=0.1, dim=1)
        value = area if self.highest_first else -area
        better = (value < self.best) & ~self.done
        self.masks = torch.where(better.view(-1, 1, 1, 1), masks, self.masks)
        self.best = torch.where(better, value, self.best)
        self.done |= (self.rule == "positive") & (self.best < 6) | (self.rule == "negative") & (self.best < -89)

    @property
    def finished(self) -> bool:
        return bool(self.done.all())


def learning_rate(explainer: MaskNetwork, scope: str) -> float:
    """Of finetuning, when nobody says: the network's own, or for a whole trunk the most that released LTX comes to."""
    return TRUNK_LR if scope == "all" and explainer.trunk is not None else explainer.finetuning_lr


def trained_objective(explainer: MaskNetwork, area_weight: float | None = None) -> ObjectiveConfig:
    """The objective that an explainer was trained with; the default one for a network from no checkpoint.

    Args:
        area_weight: another weight for its area term; None = as it was.

    Raises:
        InputError: the checkpoint's configuration holds no such objective; or a weight for a network whose masks have
            the area they are asked for.
    """
    config: ObjectiveConfig = _trained(explainer, "objective", ObjectiveConfig)
    if area_weight is not None and explainer.takes_areas:
        raise InputError(f"area_weight={area_weight}: an INR's masks have the area they are asked for; leave it out")
    if area_weight is not None:
        scheduled(area_weight, 1.0, "area")
        config.area.weight = area_weight
    return config


def trained_areas(explainer: MaskNetwork) -> AreaSampling:
    """The areas that an explainer was trained with; the default ones for a network from no checkpoint.

    Raises:
        InputError: the checkpoint's configuration holds no such areas.
    """
    return _trained(explainer, "areas", AreaSampling)


def _trained(explainer: MaskNetwork, group: str, schema: type[Any]) -> Any:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), explainer.made_with.get(group) or {})
        return OmegaConf.to_object(merged)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise InputError(f"checkpoint: config.yaml: {group}: {str(error).splitlines()[0]}") from error
