"""Counting of forward passes: the cost of a method independent of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ltx.attribution.partial_forward import replaced_forwards
from ltx.classifier.classifier import Classifier


@contextmanager
def passes_counted(classifier: Classifier) -> Iterator[list[int]]:
    """Count the images that pass through the classifier or its folded copy, with or without a backward pass.

    Partial passes that start inside the network from stored features are not counted.
    """
    counter = [0]

    def counting(forward: Callable[..., Any]) -> Callable[..., Any]:
        def count(images: Tensor, *others: Any, **named: Any) -> Any:
            counter[0] += len(images)
            return forward(images, *others, **named)

        return count

    models = {classifier.model, classifier._frozen()}  # methods with hooks run the model, the others its folded copy
    firsts = [next(module for module in model.modules() if not list(module.children())) for model in models]
    # Hooks would also run for modules that return stored features.
    with replaced_forwards({first: counting(first.forward) for first in firsts}):
        yield counter
