"""Training images that hold several photographs, so that the answer depends on the class asked about."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.runtime.seeds import Source, draw

GRIDS = ((1, 2), (2, 1), (2, 2))
"""Rows and columns: two photographs side by side, one above the other, four."""


class Mosaics(NamedTuple):
    """Training images, some of them mosaics.

    Attributes:
        images: `[B, 3, H, W]`.
        shown: the photograph that each quarter of each image shows, by its row of the batch, `[B, 2, 2]`.
        mixed: which images are mosaics, `[B]`.
    """

    images: Tensor
    shown: Tensor
    mixed: Tensor


def mosaics(images: Tensor, share: float, generator: Source) -> Mosaics:
    """Turn a random share of the images into mosaics of two or four photographs, the image itself in a random cell.

    The others are its neighbours in the batch (of a pair, or of four), so that a global batch has the same mosaics on
    any number of devices where each holds a multiple of four images; an image without enough neighbours stays whole.
    Photographs are squeezed to their cell.

    Args:
        images: `[B, 3, H, W]`.
        share: how many of them, 0 to 1.
        generator: source of the draws, one or one for each image.
    """
    count, _, height, width = images.shape
    where, how, place = draw(torch.rand, count, (3,), generator, images).unbind(1)
    rows = torch.arange(count, device=images.device)
    grid, own = (len(GRIDS) * how).long(), (4 * place).long()
    last = torch.where(grid == GRIDS.index((2, 2)), rows | 3, rows | 1)
    mixed = (where < share) & (last < count)
    shown = rows.view(-1, 1, 1).expand(-1, 2, 2)
    if not share or count < 2:
        return Mosaics(images, shown, mixed)
    result = images
    for index, (down, across) in enumerate(GRIDS):
        small = F.interpolate(images, (height // down, width // across), mode="bilinear", antialias=True)
        cells = down * across
        # Within a block of a power of two, `row ^ offset` is a neighbour, and offset 0 the image itself.
        neighbours = [(rows ^ cell ^ (own % cells)).clamp_max(count - 1) for cell in range(cells)]
        lines = [torch.cat([small[n] for n in neighbours[i : i + across]], 3) for i in range(0, cells, across)]
        together = F.interpolate(torch.cat(lines, 2), (height, width))
        here = (mixed & (grid == index)).view(-1, 1, 1)
        result = torch.where(here.unsqueeze(1), together, result)
        quarters = torch.stack(neighbours, 1).view(-1, down, across).expand(-1, 2, 2)
        shown = torch.where(here, quarters, shown)
    return Mosaics(result, shown, mixed)


class Own(NamedTuple):
    """What is looked for in mosaics.

    Attributes:
        shown, mixed: see `Mosaics`.
        logits: the classifier's, for the photograph of each mosaic alone, `[mosaics, K]`.
    """

    shown: Tensor
    mixed: Tensor
    logits: Tensor

    def asked(self, unmasked_logits: Tensor) -> Tensor:
        """The logits that masks have to preserve `[B, K]`: the photograph's own where the image is a mosaic."""
        return unmasked_logits.masked_scatter(self.mixed.unsqueeze(1), self.logits)

    def elsewhere(self, classifier: Classifier, asked: Tensor, targets: Tensor) -> Tensor:
        """Where the images show a photograph that the class asked about is not found in, `[B, 1, H, W]` of 0 and 1.

        Args:
            asked: the classifier's logits for each photograph of the batch alone, `[B, K]`.
            targets: the class that each image is asked about, that of its photograph, `[B]`.
        """
        found = targets.unsqueeze(1) == targets  # [images, photographs]
        if classifier.head == "sigmoid":
            found = found | (asked[:, targets].mT > 0)
        others = ~found.gather(1, self.shown.flatten(1)).view_as(self.shown)
        return F.interpolate(others.unsqueeze(1).float(), classifier.input_size)


def own_logits(classifier: Classifier, photographs: Tensor, made: Mosaics) -> Own | None:
    """What the classifier says of those photographs `[B, 3, H, W]` that were mixed, each alone; None where none was."""
    if not made.mixed.any():
        return None
    with torch.no_grad():
        return Own(made.shown, made.mixed, classifier(photographs[made.mixed]))
