"""The remove term: without the kept pixels, the class is lost (the counterfactual)."""

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
class Remove:
    """`-log(1 - p_y(f(keep(x, 1 - m))))`, which is at least 0, or the class's logit.

    The counterfactual branch of LTX (ICDM 2023) as its paper describes it. In the released code, this branch overwrote
    the logits of the keep branch.
    """

    only_in_training: ClassVar[bool] = False
    turn: ClassVar[str | None] = "mask"
    weight: Any = option(1.0, help="weight", scheduled=(0, math.inf))
    kind: str = option(
        "probability",
        help="probability: -log(1 - p); logit: the class's logit (unbounded)",
        choices=["probability", "logit"],
    )

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor]:
        return {"removed": 1 - batch.mask}

    @checks_logits
    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        if self.kind == "logit":
            return logits["removed"].gather(1, batch.targets[:, None]).squeeze(1)
        return -batch.classifier.log_complement(logits["removed"], batch.targets)
