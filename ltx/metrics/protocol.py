"""A protocol: everything that one family of metrics needs to know of a batch and its maps, measured once."""

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
from ltx.runtime.private_api import accepted_arguments

Explain = Callable[[Classifier, Tensor, Tensor], Tensor]
"""`(classifier, images [B, 3, H, W], targets [B]) -> maps [B, 1, H, W]`: one method, as sanity checks call it again."""

Measured = dict[str, Any]


@dataclass
class Batch:
    """Images and what is known of them before any map.

    Attributes:
        names: one an image, for errors and for seeds.
        images: `[B, 3, H, W]` in [0, 1], on the classifier's device.
        targets: the classes explained `[B]`.
        unmasked: the classifier's prediction for the unmasked images `[B]`.
        objects: masks of the explained object `[B, 1, H, W]`, bool; None where there are none.
        near_objects: as `objects`, with the pointing game's tolerance around them.
        cells: `[B]`, the cell of a 2×2 mosaic that shows the target; None for photographs.
    """

    names: list[str]
    images: Tensor
    targets: Tensor
    unmasked: Prediction
    objects: Tensor | None = None
    near_objects: Tensor | None = None
    cells: Tensor | None = None

    @property
    def seed_names(self) -> list[str]:
        """What an image's random draws depend on: its file's name, wherever the file is."""
        return [PurePath(name).name for name in self.names]


@dataclass
class Settings:
    """What protocols may depend on.

    Attributes:
        max_batch: the most images in one forward pass.
        seed: of every random draw.
        fills: what replaces removed pixels, for protocols that compare fills.
        second: a classifier that no method has seen, for the transfer check.
    """

    max_batch: int = 64
    seed: int = 0
    fills: list[str] = field(default_factory=lambda: ["black", "mean", "blur"])
    second: Classifier | None = None


class Protocol(ABC):
    """Measures a batch once for all metrics of a family.

    Attributes:
        name: its entry in `ltx.metrics.PROTOCOLS`.
        fill: what it replaces pixels with, for the tables.
    """

    name: ClassVar[str]
    fill: str = "none"

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    @abstractmethod
    def metrics(self) -> list[PerImageMetric]:
        """New, empty metrics of this family."""

    def prepare(self, classifier: Classifier, batch: Batch) -> Measured:
        """What does not depend on the map: computed once for an image, whatever the number of methods."""
        return {}

    @abstractmethod
    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        """What the metrics' `update` read, by the names of their parameters, for maps `[B, 1, H, W]`.

        Args:
            prepared: the result of `prepare` for this batch.
            explain: the method that made the maps, for protocols that explain altered images or classifiers.
        """

    def collection(self) -> MetricCollection:
        """The family as a `MetricCollection`: `collection.update(**measured)`.

        Compute groups are off: torchmetrics would merge metrics whose first batch happens to have equal states.
        """
        return MetricCollection({metric.key: metric for metric in self.metrics()}, compute_groups=False)


def update(metric: PerImageMetric, measured: Mapping[str, Any]) -> None:
    """Give a metric those entries of `measured` that its `update` names."""
    metric.update(**accepted_arguments(metric, measured))


def generator(*words: object) -> torch.Generator:
    """A CPU generator that depends on nothing but `words`, so that an image's draws do not depend on its batch."""
    digest = hashlib.sha256("|".join(map(str, words)).encode(errors="surrogateescape")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
