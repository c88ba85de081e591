"""How many images a classifier sees: what a method costs on any machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ltx.classifier import Classifier


@contextmanager
def passes_counted(classifier: Classifier) -> Iterator[list[int]]:
    """Counts the images that the classifier sees, its folded copy too; those of an optimiser's steps go backwards."""
    seen = [0]

    def count(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen[0] += len(inputs[0])

    models = {classifier.model, classifier._frozen()}  # methods that hook the model run it, the others its copy
    firsts = [next(module for module in model.modules() if not list(module.children())) for model in models]
    handles = [first.register_forward_pre_hook(count) for first in firsts]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
