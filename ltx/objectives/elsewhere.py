"""Of a mosaic, the mask keeps nothing of the photographs that were not asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


@dataclass
class Elsewhere:
    """What the mask keeps of a mosaic's photographs of other classes, as a share of the whole image.

    The grid pointing game (Böhle et al., CVPR 2021) asks the same of finished maps. Weights are prices of a pixel:
    of `area` everywhere, of this term where the class that is asked about cannot be. Nothing is said of whole
    photographs, and nothing of a photograph for which the classifier predicts the class that is asked about.
    """

    only_in_training: ClassVar[bool] = True
    weight: Any = option(0.0, help="weight, or [[progress, weight], …]; needs data.mosaic above 0")

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        return {}

    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        kept = batch.mask.float()
        return (kept * (0 if batch.elsewhere is None else batch.elsewhere)).mean((1, 2, 3))
