"""What a term of the objective sees, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.masking.fill import keep
from ltx.runtime.errors import InputError
from ltx.runtime.seeds import Source, draw

Weight = float | Sequence[Sequence[float]]

CPU_ROWS = 4
"""Composites that a CPU classifies at once: the activations of more leave its caches, up to twice the time an image."""


@dataclass
class MaskedBatch:
    """A batch under explanation.

    Attributes:
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1].
        background: what removed pixels become, `[B, 3, H, W]`.
        targets: the classes asked about, `[B]`.
        clean: the classifier's logits for the whole images, `[B, K]`.
        scores: the network's mask logits, `[B, 1, h, w]`.
        mask: the visible mask, `[B, 1, H, W]` in [0, 1], 1 = keep.
        generator: source of every random draw of the terms, one or one for each image; or None.
        shared_draws: draw once for the whole batch, so that no image's result depends on its neighbours.
        teacher: maps whose order the scores should have, `[B, 1, h', w']`, constant where an image has no teacher; None
            = no image has one.
        elsewhere: where the images show a photograph of another class than the one asked about, `[B, 1, H, W]` of 0
            and 1, in a batch that holds mosaics; None = nothing is known of that.
        areas: the area that each mask was asked for, `[B]`, where the network takes one.
        allowed: which pixels a mask may keep, `[B, 1, H, W]` in [0, 1]; None = all of them.
        jitter: what moves the composites `[N, 3, H, W]` before they are classified, or None.
    """

    classifier: Classifier
    images: Tensor
    background: Tensor
    targets: Tensor
    clean: Tensor
    scores: Tensor
    mask: Tensor
    generator: Source = None
    shared_draws: bool = False
    teacher: Tensor | None = None
    elsewhere: Tensor | None = None
    areas: Tensor | None = None
    allowed: Tensor | None = None
    jitter: Callable[[Tensor], Tensor] | None = None

    def uniform(self, *shape: int) -> Tensor:
        """Uniform draws in [0, 1), `[B, *shape]` on the images' device."""
        rows = 1 if self.shared_draws else self.images.shape[0]
        drawn = draw(torch.rand, rows, shape, self.generator, self.images)
        return drawn.expand(self.images.shape[0], *shape)


class Term(Protocol):
    """One term of the objective: a dataclass of its settings, each an `ltx.config.options.option`, `weight` among them.

    Attributes:
        only_in_training: whether the term compares with what only a training knows, so that finetuning lacks it.
    """

    weight: Any
    only_in_training: ClassVar[bool]

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor] | None:
        """The masks `[B, 1, H, W]` whose composites the term wants classified; equal names are classified once.

        None where the batch lacks what the term compares with: the term is then left out.
        """

    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        """The term's value, `[B]`, unweighted; `logits` holds `[B, K]` for each mask that was asked for."""


def scheduled(weight: Weight, progress: float, name: str) -> float:
    """The weight at a progress in [0, 1]: a number, or `[[progress, weight], …]` joined by straight lines.

    Raises:
        InputError: neither of the two forms, a weight below 0, or progresses that do not increase from 0 to 1.
    """
    if isinstance(weight, (int, float)):
        if not 0 <= weight < math.inf:
            raise InputError(f"{name}.weight={weight}; give a number, 0 or more")
        return float(weight)
    try:
        points = [(float(at), float(value)) for at, value in weight]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}.weight={weight!r}: give a number or a list of [progress, weight] pairs") from error
    rising = all(a[0] < b[0] for a, b in pairwise(points))
    if not points or not rising or not 0 <= points[0][0] <= points[-1][0] <= 1:
        raise InputError(f"{name}.weight={weight!r}: the progresses of a schedule must increase, from 0 to 1")
    if not all(0 <= value < math.inf for _, value in points):
        raise InputError(f"{name}.weight={weight!r}: the weights of a schedule must be 0 or more")
    if progress <= points[0][0]:
        return points[0][1]
    for (start, low), (end, high) in pairwise(points):
        if progress <= end:
            return low + (high - low) * (progress - start) / (end - start)
    return points[-1][1]


def ever_weighs(weight: Weight) -> bool:
    """Whether a weight that `scheduled` accepts is other than 0 at any progress."""
    return weight != 0 if isinstance(weight, (int, float)) else any(value != 0 for _, value in weight)


def classify(batch: MaskedBatch, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits `[B, K]` of the composite under each mask `[B, 1, H, W]`, each classified once."""
    if not masks:
        return {}
    composites = torch.cat([keep(batch.images, mask, batch.background) for mask in masks.values()])
    if batch.jitter is not None:
        composites = batch.jitter(composites)
    rows = CPU_ROWS if composites.device.type == "cpu" else len(composites)
    logits = torch.cat([batch.classifier(part) for part in composites.split(rows)])
    return dict(zip(masks, logits.chunk(len(masks)), strict=True))
