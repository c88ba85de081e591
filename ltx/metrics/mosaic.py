"""The grid pointing game: localisation without masks, on 2×2 mosaics of photographs of different classes."""

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

CELLS = 4


@dataclass(frozen=True)
class Mosaic:
    """Four photographs by number, row by row, and the cell whose class is explained."""

    photographs: tuple[int, ...]
    cell: int


def plan_mosaics(classes: Sequence[int], count: int, seed: int) -> list[Mosaic]:
    """`count` seeded mosaics of photographs whose predicted classes are `classes`, four different ones in each.

    The classes of a mosaic are drawn without replacement and one photograph of each, then the explained cell.

    Raises:
        InputError: fewer than four classes.
    """
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(classes):
        by_class.setdefault(label, []).append(index)
    if len(by_class) < CELLS:
        raise InputError(
            f"protocol=mosaic needs photographs of {CELLS} different predicted classes; these have {len(by_class)}"
        )
    known = sorted(by_class)
    random = np.random.default_rng(seed)
    mosaics = []
    for _ in range(count):
        chosen = [known[place] for place in random.choice(len(known), CELLS, replace=False)]
        photographs = tuple(by_class[label][random.integers(len(by_class[label]))] for label in chosen)
        mosaics.append(Mosaic(photographs, int(random.integers(CELLS))))
    return mosaics


def assemble(photographs: Tensor) -> Tensor:
    """Mosaics `[B, 3, H, W]` of photographs `[B, 4, 3, H, W]`, each shrunk to its quarter."""
    rows, _, channels, height, width = photographs.shape
    top, left = height // 2, width // 2
    boxes = [(0, 0), (0, left), (top, 0), (top, left)]
    result = photographs.new_empty(rows, channels, height, width)
    for cell, (y, x) in enumerate(boxes):
        size = (height - top if y else top, width - left if x else left)
        small = F.interpolate(photographs[:, cell], size, mode="bilinear", align_corners=False, antialias=True)
        result[:, :, y : y + size[0], x : x + size[1]] = small.clamp(0, 1)
    return result


def cell_masks(cells: Tensor, height: int, width: int) -> Tensor:
    """Bool `[B, 1, H, W]`, true in the given cell `[B]` of each mosaic."""
    down = (torch.arange(height, device=cells.device) >= height // 2).view(1, 1, -1, 1)
    right = (torch.arange(width, device=cells.device) >= width // 2).view(1, 1, 1, -1)
    return (2 * down + right) == cells.view(-1, 1, 1, 1)


class MosaicProtocol(Protocol):
    """Mosaics beside the cell of the explained class; no forward pass."""

    name = "mosaic"

    def metrics(self) -> list[PerImageMetric]:
        return [GridPointing(), GridAveragePrecision()]

    def measure(
        self, classifier: Classifier, batch: Batch, maps: Tensor, prepared: Measured, explain: Explain
    ) -> Measured:
        if batch.cells is None:
            raise InputError("protocol=mosaic scores mosaics; these are single photographs")
        check_maps(batch.images, maps, batch.names)
        return {"maps": maps, "cells": batch.cells}


class GridPointing(PerImageMetric):
    """Share of the map's positive part in the target's cell, %; 25 for a map that knows nothing."""

    name = "GridPG"
    meaning = "share of the map's positive part in the target's cell of a 2x2 mosaic, %"
    protocol = "mosaic"
    citation = "Böhle et al., Convolutional Dynamic Alignment Networks, CVPR 2021; Rao et al., CVPR 2022"
    higher_is_better = True

    def update(self, maps: Tensor, cells: Tensor) -> None:
        """Add maps `[B, 1, H, W]` and the target's cell `[B]`, counted row by row."""
        self.append(100 * positive_share(maps, cell_masks(cells, *maps.shape[-2:])))


class GridAveragePrecision(PerImageMetric):
    """Average precision of the map as a classifier of the target cell's pixels, %; 25 for a map that knows nothing.

    It reads the map's order alone. The share of its positive part also depends on where its zero lies: a mask in
    [0, 1] keeps a little everywhere, a map of signed evidence next to nothing, and neither says what is found first.
    """

    name = "GridAP"
    meaning = "average precision of the map's order for the target's cell of a 2x2 mosaic, %"
    protocol = "mosaic"
    citation = "the average precision of segmentation on the grid of Böhle et al., CVPR 2021"
    higher_is_better = True

    def update(self, maps: Tensor, cells: Tensor) -> None:
        """Add maps `[B, 1, H, W]` and the target's cell `[B]`, counted row by row."""
        inside = cell_masks(cells, *maps.shape[-2:])
        self.append(100 * average_precision(maps.flatten(1), inside.flatten(1)))
