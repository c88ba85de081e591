"""Target classes of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier


def explained_classes(classifier: Classifier, images: Tensor, targets: Tensor | None, max_batch: int = 64) -> Tensor:
    """Return `targets` `[B]`, or the classes predicted for images `[B, 3, H, W]` if `targets` is None."""
    if targets is not None:
        return targets
    with torch.no_grad():
        return torch.cat([classifier(part).argmax(1) for part in images.split(max_batch)])
