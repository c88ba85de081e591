"""A pair of implementations of the same task, and the inputs that all pairs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ltx.bench.settings import PeersBench
from ltx.classifier.classifier import Classifier


@dataclass(frozen=True)
class Inputs:
    """What is explained.

    Attributes:
        classifier: the explained model, on the device.
        images: `[B, 3, H, W]` in [0, 1], on the device.
        targets: predicted classes `[B]`.
        config: settings of the benchmark.
    """

    classifier: Classifier
    images: Tensor
    targets: Tensor
    config: PeersBench

    @property
    def device(self) -> torch.device:
        return self.images.device


@dataclass(frozen=True)
class Pair:
    """Two implementations of one task.

    Attributes:
        ours, theirs: run the task; each returns its result for the comparison, or None.
        computes: what each side computes, in words.
        difference: describes how the results differ; None = they cannot be compared.
    """

    ours: Callable[[], Tensor | None]
    theirs: Callable[[], Tensor | None]
    computes: str
    difference: Callable[[Tensor, Tensor], str] | None = None


@dataclass(frozen=True)
class Peer:
    """A task and how to build its pair.

    Attributes:
        name: the task.
        package: distribution on PyPI that must be installed; None = the other side is a plain loop.
        module: module that is imported from it.
        build: builds the pair, or returns the reason why the classifier is not supported.
    """

    name: str
    package: str | None
    module: str | None
    build: Callable[[Inputs], Pair | str]


def correlation(ours: Tensor, theirs: Tensor) -> str:
    """Median correlation of maps over images, as their scales differ."""
    a, b = (maps.flatten(1).float().cpu() for maps in (ours, theirs))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    values = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-12)
    return f"median correlation of the maps {float(values.median()):.4f}"


def largest_difference(ours: Tensor, theirs: Tensor) -> str:
    """Largest difference, relative to the range of the other result."""
    theirs = theirs.to(ours)
    error = (ours - theirs).abs().max() / (theirs.max() - theirs.min()).clamp_min(1e-12)
    return f"largest difference {float(error):.1e} of the range"
