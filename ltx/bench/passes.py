"""How many images a classifier sees: what a method costs on any machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ltx.attribution.partial_forward import answered_by
from ltx.classifier.classifier import Classifier


@contextmanager
def passes_counted(classifier: Classifier) -> Iterator[list[int]]:
    """Counts the images that the classifier sees, its folded copy too; those of an optimiser's steps go backwards.

    Passes that begin within the network, where what comes before answers from memory, are not counted.
    """
    seen = [0]

    def counting(forward: Callable[..., Any]) -> Callable[..., Any]:
        def count(images: Tensor, *others: Any, **named: Any) -> Any:
            seen[0] += len(images)
            return forward(images, *others, **named)

        return count

    models = {classifier.model, classifier._frozen()}  # methods that hook the model run it, the others its copy
    firsts = [next(module for module in model.modules() if not list(module.children())) for model in models]
    # No hooks: they are called for what answers from memory too.
    with answered_by({first: counting(first.forward) for first in firsts}):
        yield seen
