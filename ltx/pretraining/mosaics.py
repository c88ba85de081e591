"""Training images that hold several photographs, so that the answer depends on the class asked about."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.classifier import Classifier
from ltx.draws import Source, draw

GRIDS = ((1, 2), (2, 1), (2, 2))
"""Rows and columns: two photographs side by side, one above the other, four."""


def mosaics(images: Tensor, share: float, generator: Source) -> tuple[Tensor, Tensor]:
    """Turn a random share of the images into mosaics of two or four photographs, the image itself in a random cell.

    The others are its neighbours in the batch (of a pair, or of four), so that a global batch has the same mosaics on
    any number of devices where each holds a multiple of four images; an image without enough neighbours stays whole.
    Photographs are squeezed to their cell.

    Args:
        images: `[B, 3, H, W]`.
        share: how many of them, 0 to 1.
        generator: source of the draws, one or one for each image.

    Returns:
        Images `[B, 3, H, W]`, and which of them are mosaics, `[B]`.
    """
    count, _, height, width = images.shape
    where, how, place = draw(torch.rand, count, (3,), generator, images).unbind(1)
    rows = torch.arange(count, device=images.device)
    grid, own = (len(GRIDS) * how).long(), (4 * place).long()
    last = torch.where(grid == GRIDS.index((2, 2)), rows | 3, rows | 1)
    mixed = (where < share) & (last < count)
    if not share or count < 2:
        return images, mixed
    result = images
    for index, (down, across) in enumerate(GRIDS):
        small = F.interpolate(images, (height // down, width // across), mode="bilinear", antialias=True)
        cells = down * across
        # Within a block of a power of two, `row ^ offset` is a neighbour, and offset 0 the image itself.
        parts = [small[(rows ^ cell ^ (own % cells)).clamp_max(count - 1)] for cell in range(cells)]
        lines = [torch.cat(parts[start : start + across], 3) for start in range(0, cells, across)]
        together = F.interpolate(torch.cat(lines, 2), (height, width))
        result = torch.where((mixed & (grid == index)).view(-1, 1, 1, 1), together, result)
    return result, mixed


class Own(NamedTuple):
    """What is looked for in mosaics.

    Attributes:
        mixed: which images are mosaics, `[B]`.
        logits: the classifier's, for the photograph of each of them alone, `[mosaics, K]`.
    """

    mixed: Tensor
    logits: Tensor

    def asked(self, clean: Tensor) -> Tensor:
        """The logits that masks have to preserve `[B, K]`: the photograph's own where `clean` shows a mosaic."""
        return clean.masked_scatter(self.mixed.unsqueeze(1), self.logits)


def own_logits(classifier: Classifier, photographs: Tensor, mixed: Tensor) -> Own | None:
    """What the classifier says of those photographs `[B, 3, H, W]` that were mixed, each alone; None where none was."""
    if not mixed.any():
        return None
    with torch.no_grad():
        return Own(mixed, classifier(photographs[mixed]))
