"""The objective: a weighted sum of named terms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ltx.objectives.masked_batch import MaskedBatch, classify
from ltx.objectives.settings import TERMS, ObjectiveConfig
from ltx.objectives.terms import Term, ever_positive, scheduled


class Verdict(NamedTuple):
    """Result of an objective for a batch.

    Attributes:
        loss: weighted sum of the terms, `[B]`.
        terms: unweighted value of each term, `[B]`.
        logits: the classifier's logits `[B, K]` for each masked image that a term requested (`kept`, `removed`, …).
    """

    loss: Tensor
    terms: dict[str, Tensor]
    logits: dict[str, Tensor]


class Objective:
    """Weighted sum of terms; all masked images of a batch go through the classifier in one pass.

    Args:
        config: the terms and their weights; None = the defaults.

    Raises:
        InputError: a weight is neither a number nor a schedule.
    """

    def __init__(self, config: ObjectiveConfig | None = None) -> None:
        config = ObjectiveConfig() if config is None else config
        self.terms: dict[str, Term] = {name: getattr(config, name) for name in TERMS}
        for name, term in self.terms.items():
            scheduled(term.weight, 0.0, f"objective.{name}")

    def uses(self, name: str) -> bool:
        """Whether the weight of a term is positive at any progress."""
        return ever_positive(self.terms[name].weight)

    def idle_at(self) -> float | None:
        """The first progress below 1 at which all weights are zero; None = there is none."""
        schedules = [term.weight for term in self.terms.values() if not isinstance(term.weight, (int, float))]
        # A sum of non-negative piecewise linear functions can only become zero at one of their corners.
        corners = sorted({0.0, *(float(at) for schedule in schedules for at, _ in schedule)})
        return next((at for at in corners if at < 1 and not any(self.weights(at).values())), None)

    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each term at a progress of training in [0, 1]."""
        return {name: scheduled(term.weight, progress, name) for name, term in self.terms.items()}

    def __call__(self, batch: MaskedBatch, progress: float = 0.0) -> Verdict:
        """Evaluate the terms whose weight is not zero.

        Args:
            batch: images with their masks.
            progress: progress of training in [0, 1], at which the schedules of the weights are read.
        """
        weights = self.weights(progress)
        requests = {name: term.masks(batch) for name, term in self.terms.items() if weights[name] != 0}
        # A term that lacks its reference returns None instead of masks.
        present = {name: request for name, request in requests.items() if request is not None}
        masks = {name: mask for request in present.values() for name, mask in request.items()}
        logits = classify(batch, masks)
        values = {name: self.terms[name](batch, logits) for name in present}
        loss = sum((weights[name] * value for name, value in values.items()), torch.zeros_like(batch.mask[:, 0, 0, 0]))
        return Verdict(loss, values, logits)
