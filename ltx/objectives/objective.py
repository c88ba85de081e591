"""Named terms that say what a good mask is, and their weighted sum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ltx.objectives.masked_batch import MaskedBatch, classify
from ltx.objectives.settings import TERMS, ObjectiveConfig
from ltx.objectives.terms import Term, ever_weighs, scheduled


class Verdict(NamedTuple):
    """What the objective says of a batch.

    Attributes:
        loss: weighted sum of the terms, `[B]`.
        terms: each term's value, unweighted, `[B]`.
        logits: the classifier's logits `[B, K]` for each masked image that a term asked for (`kept`, `removed`, …).
    """

    loss: Tensor
    terms: dict[str, Tensor]
    logits: dict[str, Tensor]


class Objective:
    """The weighted sum of terms; all masked images of a batch go through the classifier in one pass.

    Args:
        config: an `ObjectiveConfig`, or None for the defaults.

    Raises:
        InputError: a weight that is neither a number nor a schedule.
    """

    def __init__(self, config: ObjectiveConfig | None = None) -> None:
        config = ObjectiveConfig() if config is None else config
        self.terms: dict[str, Term] = {name: getattr(config, name) for name in TERMS}
        for name, term in self.terms.items():
            scheduled(term.weight, 0.0, f"objective.{name}")

    def uses(self, name: str) -> bool:
        """Whether the term's weight is other than 0 at any time."""
        return ever_weighs(self.terms[name].weight)

    def idle_at(self) -> float | None:
        """The first progress below 1 at which no term weighs; None = there is none."""
        schedules = [term.weight for term in self.terms.values() if not isinstance(term.weight, (int, float))]
        # Sums of straight lines that are nowhere below 0 are 0 at a corner, if anywhere.
        corners = sorted({0.0, *(float(at) for schedule in schedules for at, _ in schedule)})
        return next((at for at in corners if at < 1 and not any(self.weights(at).values())), None)

    def weights(self, progress: float) -> dict[str, float]:
        """Each term's weight at a progress of training in [0, 1]."""
        return {name: scheduled(term.weight, progress, name) for name, term in self.terms.items()}

    def __call__(self, batch: MaskedBatch, progress: float = 0.0) -> Verdict:
        """Judge a batch at a progress of training in [0, 1], which the schedules of the weights depend on."""
        weights = self.weights(progress)
        asked = {name: term.masks(batch) for name, term in self.terms.items() if weights[name] != 0}
        masks = {name: mask for wanted in asked.values() if wanted is not None for name, mask in wanted.items()}
        logits = classify(batch, masks)
        values = {name: self.terms[name](batch, logits) for name, wanted in asked.items() if wanted is not None}
        loss = sum((weights[name] * value for name, value in values.items()), torch.zeros_like(batch.mask[:, 0, 0, 0]))
        return Verdict(loss, values, logits)
