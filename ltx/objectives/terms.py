"""The interface of a term, and the schedule of its weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ltx.runtime.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch

Weight = float | Sequence[Sequence[float]]


class Term(Protocol):
    """One term of the objective: a dataclass of settings, each an `ltx.config.options.option`.

    Attributes:
        weight: a number, or a schedule (see `scheduled`).
        only_in_training: whether the term needs data that only training has, so that finetuning leaves it out.
    """

    weight: Any
    only_in_training: ClassVar[bool]

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor] | None:
        """Masks `[B, 1, H, W]` by name, whose masked images the term needs classified.

        Masks of equal name, from several terms, are classified once. None if the batch lacks the term's reference
        data; the term is then left out.
        """

    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        """The unweighted value of the term, `[B]`.

        Args:
            batch: images with their masks.
            logits: `[B, K]` for the name of each mask that the terms requested.
        """


def scheduled(weight: Weight, progress: float, name: str) -> float:
    """Read a weight at a progress of training in [0, 1].

    Args:
        weight: a number, or a schedule `[[progress, weight], …]`, which is interpolated linearly.
        progress: progress of training in [0, 1].
        name: setting to name in errors.

    Raises:
        InputError: the weight is neither a number nor a schedule, is negative or not finite, or the schedule's
            progress values do not increase within [0, 1].
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
        raise InputError(f"{name}.weight={weight!r}: the progress values of a schedule must increase within [0, 1]")
    if not all(0 <= value < math.inf for _, value in points):
        raise InputError(f"{name}.weight={weight!r}: the weights of a schedule must be 0 or more")
    if progress <= points[0][0]:
        return points[0][1]
    for (start, low), (end, high) in pairwise(points):
        if progress <= end:
            return low + (high - low) * (progress - start) / (end - start)
    return points[-1][1]


def ever_positive(weight: Weight) -> bool:
    """Whether a weight that `scheduled` accepts is positive at any progress."""
    return weight != 0 if isinstance(weight, (int, float)) else any(value != 0 for _, value in weight)
