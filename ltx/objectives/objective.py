"""The objective: a weighted sum of named terms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ltx.config.schedules import at, corners, ever_positive, value_at
from ltx.objectives.masked_batch import MaskedBatch, classify
from ltx.objectives.settings import TERMS, ObjectiveConfig
from ltx.objectives.terms import Term


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
    """

    def __init__(self, config: ObjectiveConfig | None = None) -> None:
        config = ObjectiveConfig() if config is None else config
        self.terms: dict[str, Term] = {name: getattr(config, name) for name in TERMS}

    def uses(self, name: str) -> bool:
        """Whether the weight of a term is positive at any progress."""
        return ever_positive(self.terms[name].weight)

    def idle_at(self) -> float | None:
        """The first progress below 1 at which all weights are zero; None = there is none."""
        # A sum of non-negative piecewise linear functions can only become zero at one of their corners.
        points = sorted({0.0, *(point for term in self.terms.values() for point in corners(term.weight))})
        return next((point for point in points if point < 1 and not any(self.weights(point).values())), None)

    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each term at a progress of training in [0, 1]."""
        return {name: value_at(term.weight, progress) for name, term in self.terms.items()}

    def turns(self, progress: float = 1.0) -> list[Objective]:
        """Objectives that take turns, step by step, so that each step classifies a part of the masked images.

        `keep` and `remove` share a turn because both need the mask itself; `ranking` has its own. A term of a turn has
        its weight times the number of turns, so that the mean over the turns is this objective. Terms without masked
        images are part of each turn.

        Args:
            progress: progress of training in [0, 1] at which the schedules are read.
        """
        terms = {name: at(term, progress) for name, term in self.terms.items()}
        turns = list(dict.fromkeys(term.turn for term in terms.values() if term.turn is not None and term.weight > 0))
        if len(turns) < 2:
            return [self]

        def scaled(term: Any, turn: str) -> Any:
            factor = 1 if term.turn is None else len(turns) * (term.turn == turn)
            return replace(term, weight=factor * term.weight)

        return [
            Objective(ObjectiveConfig(**{name: scaled(term, turn) for name, term in terms.items()})) for turn in turns
        ]

    def __call__(self, batch: MaskedBatch, progress: float = 0.0) -> Verdict:
        """Evaluate the terms whose weight is not zero.

        Args:
            batch: images with their masks.
            progress: progress of training in [0, 1], at which the schedules of the terms are read.
        """
        terms = {name: at(term, progress) for name, term in self.terms.items()}
        requests = {name: term.masks(batch) for name, term in terms.items() if term.weight != 0}
        # A term that lacks its reference returns None instead of masks.
        present = {name: request for name, request in requests.items() if request is not None}
        masks = {name: mask for request in present.values() for name, mask in request.items()}
        logits = classify(batch, masks)
        values = {name: terms[name](batch, logits) for name in present}
        loss = sum(
            (terms[name].weight * value for name, value in values.items()), torch.zeros_like(batch.mask[:, 0, 0, 0])
        )
        return Verdict(loss, values, logits)
