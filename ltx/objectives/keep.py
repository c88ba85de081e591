"""The keep term: the kept pixels preserve the prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import option
from ltx.objectives.terms import checks_logits
from ltx.runtime.lazy import F

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


KEEP_KINDS = ("cross_entropy", "lost_probability", "logit", "kl")


@dataclass
class Keep:
    """Loss of the target class under the kept pixels.

    The kinds are:

    - `cross_entropy`: `CE(f(keep(x, m)), y)` (LTX, ICDM 2023). Its gradient is largest for masks that keep next to
      nothing of the class, as very small masks do.
    - `lost_probability`: `1 - p_y`. Its gradient is largest for masks that a small change can still improve.
    - `logit`: minus the logit (Fong et al. 2019), unbounded.
    - `kl`: the KL divergence from the prediction for the full image.
    """

    only_in_training: ClassVar[bool] = False
    turn: ClassVar[str | None] = "mask"
    weight: Any = option(1.0, help="weight", scheduled=(0, math.inf))
    kind: str = option(
        "cross_entropy",
        help="cross_entropy of the class, lost_probability (1 - p), logit (unbounded), or kl from the full image's "
        "prediction",
        choices=KEEP_KINDS,
    )

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        return {"kept": batch.mask}

    @checks_logits
    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        kept = logits["kept"]
        if self.kind == "logit":
            return -kept.gather(1, batch.targets[:, None]).squeeze(1)
        if self.kind == "cross_entropy":
            return -batch.classifier.log_probability(kept, batch.targets)
        if self.kind == "lost_probability":
            return 1 - batch.classifier.log_probability(kept, batch.targets).exp()
        if batch.classifier.head == "softmax":
            unmasked = batch.unmasked_logits.log_softmax(1)
            return F.kl_div(kept.log_softmax(1), unmasked, reduction="none", log_target=True).sum(1)
        unmasked = batch.unmasked_logits.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(batch.unmasked_logits, unmasked, reduction="none")
        return (F.binary_cross_entropy_with_logits(kept, unmasked, reduction="none") - entropy).sum(1)
