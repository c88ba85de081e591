"""A protocol computes once, for a batch and its maps, everything that one family of metrics needs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from ltx.classifier.classifier import Classifier
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import Prediction
from ltx.runtime.errors import InputError
from ltx.runtime.private_api import accepted_arguments
from ltx.runtime.tensor_arguments import Expected, check_tensors

Explain = Callable[[Classifier, Tensor, Tensor], Tensor]
"""`(classifier, images [B, 3, H, W], targets [B]) -> maps [B, 1, H, W]`: one method; sanity checks call it again."""

Measured = dict[str, Any]


TENSORS = {
    "images": Expected.parsed("float [B, C, H, W]"),
    "targets": Expected.parsed("int64 [B]"),
    "objects": Expected.parsed("real [B, 1, H, W]"),
    "near_objects": Expected.parsed("real [B, 1, H, W]"),
    "cells": Expected.parsed("int [B]"),
}


@dataclass
class Batch:
    """A batch of images and the data about them that does not depend on a map.

    Attributes:
        names: one name for each image, used in errors and for random seeds.
        images: `[B, 3, H, W]` in [0, 1], on the classifier's device.
        targets: target classes `[B]`.
        unmasked: the classifier's prediction for the full images `[B]`.
        objects: masks of the target object, bool `[B, 1, H, W]`; None without object masks.
        near_objects: `objects` enlarged by the tolerance of the pointing game.
        cells: `[B]`, the cell of a 2×2 mosaic that shows the target class; None for photographs.
    """

    names: list[str]
    images: Tensor
    targets: Tensor
    unmasked: Prediction
    objects: Tensor | None = None
    near_objects: Tensor | None = None
    cells: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensors(TENSORS, vars(self))
        if len(self.names) != len(self.images):
            raise InputError(f"{len(self.names)} names for {len(self.images)} images; give one each")

    @property
    def seed_names(self) -> list[str]:
        """The file name of each image without its folder, which seeds the image's random draws."""
        return [PurePath(name).name for name in self.names]


@dataclass
class Settings:
    """Settings of protocols.

    Attributes:
        max_batch: maximum number of images in one forward pass.
        seed: random seed.
        fills: fills for removed pixels, for protocols that compare fills.
        second: the second classifier of the transfer check.
    """

    max_batch: int = 64
    seed: int = 0
    fills: list[str] = field(default_factory=lambda: ["black", "mean", "blur"])
    second: Classifier | None = None


class Protocol(ABC):
    """Computes the inputs of all metrics of a family from a batch and its maps.

    Attributes:
        name: its key in `ltx.metrics.registry.PROTOCOLS`.
        fill: the fill for removed pixels, shown in tables.
    """

    name: ClassVar[str]
    fill: str = "none"

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    @abstractmethod
    def metrics(self) -> list[PerImageMetric]:
        """New, empty metrics of this family."""

    def prepare(self, classifier: Classifier, batch: Batch) -> Measured:
        """Compute everything that does not depend on the map; called once for a batch and shared by all methods."""
        return {}

    @abstractmethod
    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        """Compute the inputs of the metrics' `update` methods for maps `[B, 1, H, W]`, keyed by parameter name.

        Args:
            prepared: the result of `prepare` for this batch.
            explain: the method that computed the maps, for protocols that explain modified images or classifiers.
        """

    def collection(self) -> MetricCollection:
        """The family as a `MetricCollection`, to be called as `collection.update(**measured)`.

        Compute groups are disabled because torchmetrics would merge metrics whose states are equal after one batch.
        """
        return MetricCollection({metric.key: metric for metric in self.metrics()}, compute_groups=False)


def update(metric: PerImageMetric, measured: Mapping[str, Any]) -> None:
    """Update a metric with the entries of `measured` that its `update` method takes."""
    metric.update(**accepted_arguments(metric, measured))


def generator(*words: object) -> torch.Generator:
    """A CPU generator seeded by `words` only, so that the draws for an image do not depend on its batch."""
    digest = hashlib.sha256("|".join(map(str, words)).encode(errors="surrogateescape")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
