"""The scores of a mask are ordered as the map of another attribution method is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import option
from ltx.metrics.rank_correlation import average_ranks
from ltx.runtime.errors import InputError
from ltx.runtime.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


@dataclass
class Teacher:
    """Of two places, the one that the teacher ranks higher should have the higher score.

    The logistic loss of ordered pairs (RankNet, Burges et al. 2005), each weighted by how far apart the teacher ranks
    its two places: `softplus(-(z_i - z_j) / temperature)` for `t_i > t_j`, `z = s / sqrt(1 + var(s))`. The weights have
    mean 1 over the pairs of a map without ties. Only the order is taught:

    - any increasing transformation of the teacher's map changes nothing; places of equal value are not ordered, so a
      constant map, or one that says nothing of its image, teaches nothing;
    - a constant added to all scores changes nothing, so the mask's area is left to the other terms, and beyond a
      contrast of about one logit so does a factor (a fresh network's all but equal scores are not blown up);
    - neighbours in the teacher's order, where its noise lies, count least.

    A regression of the ranks would also ask for evenly spread scores, which a mask of mostly kept and removed places
    contradicts.
    """

    only_in_training: ClassVar[bool] = True
    weight: Any = option(0.0, help="weight, or [[progress, weight], …]; [[0, 1], [0.5, 0]] gives LTX the last word")
    pairs: int = option(8, help="places that each place is compared with, drawn for each image and step")
    temperature: float = option(0.2, help="softness of the comparison, in standard deviations of the scores")

    def __post_init__(self) -> None:
        if self.pairs < 1 or not 0 < self.temperature < math.inf:
            raise InputError(
                f"objective.teacher: pairs={self.pairs}, temperature={self.temperature}; need pairs >= 1 and "
                "temperature > 0"
            )

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor] | None:
        return None if batch.teacher is None else {}

    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        assert batch.teacher is not None  # else `masks` left the term out
        scores = batch.scores.float().flatten(1)
        count = scores.shape[1]
        if count < 2:
            return torch.zeros_like(scores[:, 0])
        scores = scores / (1 + scores.var(1, keepdim=True)).sqrt()
        # Ranked before it is brought to the scores' grid: means over a cell's ranks do not depend on the map's values.
        order = F.interpolate(ranks(batch.teacher), batch.scores.shape[-2:], mode="area").flatten(1)
        # A place and the one `shift` further on, around the end: each place is in as many pairs as any other.
        shift = 1 + (batch.uniform(self.pairs) * (count - 1)).long().clamp_max(count - 2)
        places = torch.arange(count, device=scores.device)
        partner = ((places + shift.unsqueeze(2)) % count).flatten(1)

        def difference(values: Tensor) -> Tensor:
            return values.repeat(1, self.pairs) - values.gather(1, partner)

        # The mean of |i - j| / count over pairs of different ranks is (count + 1) / (3 count).
        apart = difference(order) * (3 * count / (count + 1))
        wrong = F.softplus(-apart.sign() * difference(scores) / self.temperature)
        return (apart.abs() * wrong).mean(1)


def ranks(maps: Tensor) -> Tensor:
    """The share of each map's places that lie below each place, ties counted half: `[B, 1, h, w]` in (0, 1)."""
    values = maps.float().flatten(1)
    return (average_ranks(values) / values.shape[1]).float().view_as(maps)
