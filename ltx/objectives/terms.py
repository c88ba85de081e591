"""What a term of the objective is, and how its weight is scheduled."""

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
    """One term of the objective: a dataclass of its settings, each an `ltx.config.options.option`, `weight` among them.

    Attributes:
        only_in_training: whether the term compares with what only a training knows, so that finetuning lacks it.
    """

    weight: Any
    only_in_training: ClassVar[bool]

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor] | None:
        """The masks `[B, 1, H, W]` whose masked images the term wants classified; equal names are classified once.

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
