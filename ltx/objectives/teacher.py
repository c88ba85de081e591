"""The teacher term: mask scores are ordered like the map of another attribution method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import option
from ltx.config.schedules import has_schedules
from ltx.metrics.rank_correlation import average_ranks
from ltx.objectives.terms import checks_logits
from ltx.runtime.errors import InputError
from ltx.runtime.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


@dataclass
class Teacher:
    """Pairwise ranking loss: of two cells, the one that the teacher ranks higher should have the higher score.

    The logistic loss of ordered pairs (RankNet, Burges et al. 2005), weighted by the difference of the teacher's ranks:
    `softplus(-(z_i - z_j) / temperature)` for `t_i > t_j`, with `z = s / sqrt(1 + var(s))`. The weights have mean 1
    over the pairs of a map without ties. The loss depends on the order alone:

    - It is invariant to increasing transformations of the teacher's map. Cells of equal value are not ordered, so a
      constant map contributes nothing.
    - It is invariant to a constant added to all scores, which leaves the mask's area to the other terms. Above a
      contrast of about one logit, it is also invariant to a factor. Below, the nearly equal scores of an untrained
      network are not amplified.
    - Pairs of similar rank, where the teacher's noise lies, have the smallest weight.

    A regression of the ranks would also favour evenly spread scores, in conflict with masks that are mostly 0 or 1.
    """

    only_in_training: ClassVar[bool] = True
    turn: ClassVar[str | None] = None
    weight: Any = option(0.0, help="weight; [[0, 1], [0.5, 0]] leaves the second half to LTX", scheduled=(0, math.inf))
    pairs: int = option(8, help="random cells that each cell is compared with, per image and step")
    temperature: Any = option(
        0.2, help="softness of the comparison, in standard deviations of the scores", scheduled=(0, math.inf)
    )

    def __post_init__(self) -> None:
        if has_schedules(self):
            return  # `ObjectiveConfig` checks the values at each point of the schedules
        if self.pairs < 1 or not 0 < self.temperature < math.inf:
            raise InputError(
                f"objective.teacher: pairs={self.pairs}, temperature={self.temperature}; need pairs >= 1 and "
                "temperature > 0"
            )

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor] | None:
        return None if batch.teacher is None else {}

    @checks_logits
    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        assert batch.teacher is not None  # otherwise `masks` has left the term out
        scores = batch.scores.float().flatten(1)
        count = scores.shape[1]
        if count < 2:
            return torch.zeros_like(scores[:, 0])
        scores = scores / (1 + scores.var(1, keepdim=True)).sqrt()
        # Ranks are computed before resizing: the mean rank of a cell does not depend on the map's values.
        order = F.interpolate(ranks(batch.teacher), batch.scores.shape[-2:], mode="area").flatten(1)
        # Pair each cell with the one `shift` further, cyclically, so that all cells occur in equally many pairs.
        shift = 1 + (batch.uniform(self.pairs) * (count - 1)).long().clamp_max(count - 2)
        cells = torch.arange(count, device=scores.device)
        partner = ((cells + shift.unsqueeze(2)) % count).flatten(1)

        def difference(values: Tensor) -> Tensor:
            return values.repeat(1, self.pairs) - values.gather(1, partner)

        # The mean of |i - j| / count over pairs of different ranks is (count + 1) / (3 count).
        rank_difference = difference(order) * (3 * count / (count + 1))
        loss = F.softplus(-rank_difference.sign() * difference(scores) / self.temperature)
        return (rank_difference.abs() * loss).mean(1)


def ranks(maps: Tensor) -> Tensor:
    """Share of each map's cells whose value is lower, ties counted half: `[B, 1, h, w]` in (0, 1)."""
    values = maps.float().flatten(1)
    return (average_ranks(values) / values.shape[1]).float().view_as(maps)
