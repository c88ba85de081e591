"""The grid pointing game: localisation without object masks, on 2×2 mosaics of photographs of different classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.metrics.localisation import average_precision, positive_share
from ltx.metrics.per_image import PerImageMetric
from ltx.metrics.perturbation import check_maps
from ltx.metrics.protocol import Batch, Explain, Measured, Protocol
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes

CELLS = 4


@dataclass(frozen=True)
class Mosaic:
    """Indices of four photographs in row-major order, and the cell whose class is explained."""

    photographs: tuple[int, ...]
    cell: int


def plan_mosaics(classes: Sequence[int], count: int, seed: int) -> list[Mosaic]:
    """Draw mosaics of photographs with four different predicted classes each.

    For each mosaic, draw four classes without replacement, one photograph of each, and the cell to explain.

    Args:
        classes: the predicted class of each photograph.
        count: number of mosaics.
        seed: random seed.

    Raises:
        InputError: fewer than four classes.
    """
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(classes):
        by_class.setdefault(label, []).append(index)
    if len(by_class) < CELLS:
        raise InputError(
            f"protocol=mosaic needs photographs of {CELLS} different predicted classes; the images have {len(by_class)}"
        )
    known = sorted(by_class)
    random = np.random.default_rng(seed)
    mosaics = []
    for _ in range(count):
        chosen = [known[place] for place in random.choice(len(known), CELLS, replace=False)]
        photographs = tuple(by_class[label][random.integers(len(by_class[label]))] for label in chosen)
        mosaics.append(Mosaic(photographs, int(random.integers(CELLS))))
    return mosaics


@takes(photographs="float32 [B, 4, C, H, W]")
def assemble(photographs: Tensor) -> Tensor:
    """Assemble photographs `[B, 4, 3, H, W]` into mosaics `[B, 3, H, W]`, each photograph resized to one quarter."""
    rows, _, channels, height, width = photographs.shape
    top, left = height // 2, width // 2
    boxes = [(0, 0), (0, left), (top, 0), (top, left)]
    result = photographs.new_empty(rows, channels, height, width)
    for cell, (y, x) in enumerate(boxes):
        size = (height - top if y else top, width - left if x else left)
        small = F.interpolate(photographs[:, cell], size, mode="bilinear", align_corners=False, antialias=True)
        result[:, :, y : y + size[0], x : x + size[1]] = small.clamp(0, 1)
    return result


@takes(cells="int [B]")
def cell_masks(cells: Tensor, height: int, width: int) -> Tensor:
    """Masks of the cells `[B]` of mosaics, bool `[B, 1, H, W]`."""
    down = (torch.arange(height, device=cells.device) >= height // 2).view(1, 1, -1, 1)
    right = (torch.arange(width, device=cells.device) >= width // 2).view(1, 1, 1, -1)
    return (2 * down + right) == cells.view(-1, 1, 1, 1)


class MosaicProtocol(Protocol):
    """Compare maps of mosaics with the cell of the target class; no forward pass."""

    name = "mosaic"

    def metrics(self) -> list[PerImageMetric]:
        return [GridPointing(), GridAveragePrecision()]

    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        if batch.cells is None:
            raise InputError("protocol=mosaic needs mosaics, but the batch contains single photographs")
        check_maps(batch.images, maps, batch.names)
        return {"maps": maps, "cells": batch.cells}


class GridPointing(PerImageMetric):
    """Share of the map's positive part in the target's cell, %; 25 for an uninformative map."""

    name = "GridPG"
    meaning = "share of the map's positive part in the target's cell of a 2x2 mosaic, %"
    protocol = "mosaic"
    citation = "Böhle et al., Convolutional Dynamic Alignment Networks, CVPR 2021; Rao et al., CVPR 2022"
    higher_is_better = True

    @takes(maps="float [B, 1, H, W]", cells="int [B]")
    def update(self, maps: Tensor, cells: Tensor) -> None:
        """Add maps `[B, 1, H, W]` and the index of the target's cell `[B]`, in row-major order."""
        self.append(100 * positive_share(maps, cell_masks(cells, *maps.shape[-2:])))


class GridAveragePrecision(PerImageMetric):
    """Average precision of the map as a classifier of the target cell's pixels, %; 25 for an uninformative map.

    It depends only on the order of the pixels. GridPG also depends on the map's zero: a mask in [0, 1] is slightly
    positive everywhere, while a map of signed evidence is not.
    """

    name = "GridAP"
    meaning = "average precision of the map's order for the target's cell of a 2x2 mosaic, %"
    protocol = "mosaic"
    citation = "the average precision of segmentation on the grid of Böhle et al., CVPR 2021"
    higher_is_better = True

    @takes(maps="float [B, 1, H, W]", cells="int [B]")
    def update(self, maps: Tensor, cells: Tensor) -> None:
        """Add maps `[B, 1, H, W]` and the index of the target's cell `[B]`, in row-major order."""
        inside = cell_masks(cells, *maps.shape[-2:])
        self.append(100 * average_precision(maps.flatten(1), inside.flatten(1)))
