"""The elsewhere term: a penalty on mask pixels in a mosaic's photographs of other classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import option
from ltx.objectives.terms import checks_logits

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


@dataclass
class Elsewhere:
    """Share of the image that the mask keeps in a mosaic's photographs of other classes.

    The grid pointing game (Böhle et al., CVPR 2021) measures the same on finished maps. The weight is the cost of a
    kept pixel, like that of `area`, but only where the target class cannot be. The term is zero for single photographs,
    and ignores photographs for which the classifier predicts the target class.
    """

    only_in_training: ClassVar[bool] = True
    turn: ClassVar[str | None] = None
    weight: Any = option(0.0, help="weight; needs data.mosaic above 0", scheduled=(0, math.inf))

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        return {}

    @checks_logits
    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        kept = batch.mask.float()
        return (kept * (0 if batch.elsewhere is None else batch.elsewhere)).mean((1, 2, 3))
