"""Mosaics of several photographs as training images: their mask must depend on the target class."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.runtime.devices import tensor_on
from ltx.runtime.seeds import Source, draw

GRIDS = ((1, 2), (2, 1), (2, 2))
"""Rows and columns of a mosaic: two photographs side by side, two above each other, four."""


class MosaicBatch(NamedTuple):
    """Training images, some of which are mosaics.

    Attributes:
        images: `[B, 3, H, W]`.
        sources: which photograph each quarter of each image shows, as a row of the batch, `[B, 2, 2]`, on the CPU.
        is_mosaic: which images are mosaics, `[B]`, bool, on the CPU: a GPU need not be waited for.
    """

    images: Tensor
    sources: Tensor
    is_mosaic: Tensor


def make_mosaics(images: Tensor, share: float, generator: Source) -> MosaicBatch:
    """Replace a random share of the images by mosaics of two or four photographs.

    A mosaic shows the image itself in a random cell and its neighbours in the batch (of its pair, or of its group of
    four) in the others, so that a global batch has the same mosaics on any number of devices that hold a multiple of
    four images each. An image without enough neighbours is not changed. Photographs are resized to their cell.

    Args:
        images: `[B, 3, H, W]`.
        share: expected share of mosaics, 0 to 1.
        generator: source of the random draws, one or one for each image.
    """
    count, _, height, width = images.shape
    chance, kind, place = draw(torch.rand, count, (3,), generator, torch.empty(0)).unbind(1)
    rows = torch.arange(count)
    grid, own_cell = (len(GRIDS) * kind).long(), (4 * place).long()
    last_neighbour = torch.where(grid == GRIDS.index((2, 2)), rows | 3, rows | 1)
    is_mosaic = (chance < share) & (last_neighbour < count)
    sources = rows.view(-1, 1, 1).expand(-1, 2, 2)
    if not share or count < 2:
        return MosaicBatch(images, sources, is_mosaic)
    result, sources = images.clone(), sources.clone()
    for index, (down, across) in enumerate(GRIDS):
        chosen, cells = (is_mosaic & (grid == index)).nonzero()[:, 0], down * across
        if not len(chosen):
            continue
        # Within a block of a power of two, `row ^ offset` is a neighbour, and offset 0 the image itself.
        neighbours = [chosen ^ cell ^ (own_cell[chosen] % cells) for cell in range(cells)]
        photographs = images[tensor_on(images.device, torch.cat(neighbours))]
        small = F.interpolate(photographs, (height // down, width // across), mode="bilinear", antialias=True)
        parts = small.chunk(cells)
        lines = [torch.cat(parts[i : i + across], 3) for i in range(0, cells, across)]
        result[tensor_on(images.device, chosen)] = F.interpolate(torch.cat(lines, 2), (height, width))
        sources[chosen] = torch.stack(neighbours, 1).view(-1, down, across).expand(-1, 2, 2)
    return MosaicBatch(result, sources, is_mosaic)


class MosaicTargets(NamedTuple):
    """What the masks of mosaics explain: the prediction for the mosaic's own photograph alone.

    Attributes:
        sources, is_mosaic: see `MosaicBatch`; on the device.
        rows: the rows of the batch that are mosaics, `[mosaics]`.
        logits: the classifier's logits for the own photograph of each mosaic, `[mosaics, K]`.
    """

    sources: Tensor
    is_mosaic: Tensor
    rows: Tensor
    logits: Tensor

    def replace_logits(self, logits: Tensor) -> Tensor:
        """Logits `[B, K]` that the masks have to preserve: those of the own photograph where an image is a mosaic.

        Args:
            logits: the classifier's logits for the batch, mosaics included, `[B, K]`.
        """
        return logits.index_copy(0, self.rows, self.logits)

    def elsewhere(self, classifier: Classifier, logits: Tensor, targets: Tensor) -> Tensor:
        """Where the images show a photograph that does not contain the target class, `[B, 1, H, W]` of 0 and 1.

        A photograph contains its predicted class and, with a sigmoid head, every class of a positive logit.

        Args:
            classifier: the explained model.
            logits: its logits for each photograph of the batch alone, `[B, K]`.
            targets: the target class of each image, that of its own photograph, `[B]`.
        """
        contains_target = targets.unsqueeze(1) == targets  # [images, photographs]
        if classifier.head == "sigmoid":
            contains_target = contains_target | (logits[:, targets].mT > 0)
        elsewhere = ~contains_target.gather(1, self.sources.flatten(1)).view_as(self.sources)
        return F.interpolate(elsewhere.unsqueeze(1).float(), classifier.input_size)


def mosaic_targets(classifier: Classifier, photographs: Tensor, batch: MosaicBatch) -> MosaicTargets | None:
    """Classify the own photograph of each mosaic alone; None if the batch contains no mosaic.

    Args:
        classifier: the explained model.
        photographs: the images before they became mosaics, `[B, 3, H, W]`.
        batch: the mosaics.
    """
    if not batch.is_mosaic.any():
        return None
    device = photographs.device
    rows = tensor_on(device, batch.is_mosaic.nonzero()[:, 0])
    with torch.no_grad():
        logits = classifier(photographs[rows])
    return MosaicTargets(tensor_on(device, batch.sources), tensor_on(device, batch.is_mosaic), rows, logits)
