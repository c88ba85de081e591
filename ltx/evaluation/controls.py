"""Control methods: baselines and upper bounds that do not read the classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.metrics.protocol import Batch, generator
from ltx.runtime.errors import InputError

MapMaker = Callable[[Classifier, Tensor, Tensor, Batch], Tensor]
"""`(classifier, images, targets, batch) -> maps [B, 1, H, W]`; the images may be modified images of the batch."""


def random_map(classifier: Classifier, images: Tensor, targets: Tensor, batch: Batch, seed: int = 0) -> Tensor:
    """Uniform noise on a 14×14 grid, upsampled bilinearly; the draw depends only on the image's name and the seed."""
    grids = [torch.rand(1, 14, 14, generator=generator(seed, "random", name)) for name in batch.seed_names]
    maps = F.interpolate(torch.stack(grids), images.shape[-2:], mode="bilinear", align_corners=False)
    return maps.to(images)


def gaussian_map(classifier: Classifier, images: Tensor, targets: Tensor, batch: Batch) -> Tensor:
    """A Gaussian at the image's centre, σ a quarter of each side: the `center` baseline of the pointing game."""
    sides = [torch.linspace(-1, 1, size, device=images.device) / 0.5 for size in images.shape[-2:]]
    bump = torch.exp(-0.5 * (sides[0][:, None] ** 2 + sides[1][None] ** 2))
    return bump.expand(images.shape[0], 1, -1, -1).contiguous()


def constant_map(classifier: Classifier, images: Tensor, targets: Tensor, batch: Batch) -> Tensor:
    """0.5 everywhere: pixels are removed in row-major order."""
    return torch.full_like(images[:, :1], 0.5)


def ground_truth_map(classifier: Classifier, images: Tensor, targets: Tensor, batch: Batch) -> Tensor:
    """The mask of the target object, as an upper bound for localisation."""
    if batch.objects is None:
        raise InputError("methods: ground_truth needs object masks; give masks=FOLDER")
    return batch.objects.to(images)


CONTROLS: dict[str, MapMaker] = {
    "random": random_map,
    "gaussian": gaussian_map,
    "constant": constant_map,
    "ground_truth": ground_truth_map,
}
