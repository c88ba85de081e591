"""How many images a classifier sees: what a method costs on any machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ltx.classifier import Classifier


@contextmanager
def passes_counted(classifier: Classifier) -> Iterator[list[int]]:
    """Counts the images that the classifier sees; those of an optimiser's steps go backwards too."""
    seen = [0]

    def count(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen[0] += len(inputs[0])

    first = next(module for module in classifier.model.modules() if not list(module.children()))
    handle = first.register_forward_pre_hook(count)
    try:
        yield seen
    finally:
        handle.remove()
