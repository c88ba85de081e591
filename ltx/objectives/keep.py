"""The prediction under the kept pixels must be preserved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.config.options import option
from ltx.runtime.lazy import F

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


@dataclass
class Keep:
    """`CE(f(keep(x, m)), y)` (LTX, ICDM 2023), minus the logit (Fong et al. 2019), or KL to the whole prediction.

    The cross-entropy cares most for masks that keep next to nothing of the class, as all do that are small enough;
    `1 - p_y`, the `lost_probability`, cares for those that a change could still mend.
    """

    only_in_training: ClassVar[bool] = False
    weight: Any = option(1.0, help="weight, or [[progress, weight], …]")
    kind: str = option(
        "cross_entropy",
        help="cross_entropy of the class, lost_probability (1 - p), logit (unbounded), or kl from the whole prediction",
        choices=["cross_entropy", "lost_probability", "logit", "kl"],
    )

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        return {"kept": batch.mask}

    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        kept = logits["kept"]
        if self.kind == "logit":
            return -kept.gather(1, batch.targets[:, None]).squeeze(1)
        if self.kind == "cross_entropy":
            return -batch.classifier.log_probability(kept, batch.targets)
        if self.kind == "lost_probability":
            return 1 - batch.classifier.log_probability(kept, batch.targets).exp()
        if batch.classifier.head == "softmax":
            whole = batch.unmasked_logits.log_softmax(1)
            return F.kl_div(kept.log_softmax(1), whole, reduction="none", log_target=True).sum(1)
        whole = batch.unmasked_logits.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(batch.unmasked_logits, whole, reduction="none")
        return (F.binary_cross_entropy_with_logits(kept, whole, reduction="none") - entropy).sum(1)
