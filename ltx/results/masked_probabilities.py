"""The class's probability with only the kept and with only the removed pixels, computed when it is first read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.masking.fill import Fill
from ltx.results.masks_by_area import probability_kept

if TYPE_CHECKING:
    from ltx.results.explanation import Explanation


class MaskedProbabilities:
    """Classifies the kept and the removed pixels of a batch of images in one batched pass, once, on first use.

    Args:
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1].
        mask: `[B, 1, H, W]` in [0, 1], 1 = keep.
        fill: fill for removed pixels; its random draws have the seed 0.
        targets: the target classes, `[B]`.
        max_batch: most masked images in one forward pass.
    """

    def __init__(
        self, classifier: Classifier, images: Tensor, mask: Tensor, fill: Fill, targets: Tensor, max_batch: int
    ) -> None:
        self.classifier, self.images, self.mask = classifier, images, mask
        self.fill, self.targets, self.max_batch = fill, targets, max_batch

    @cached_property
    def both(self) -> Tensor:
        """The probability of the class from the kept and from the removed pixels, `[B, 2]`."""
        background = self.fill(self.images, torch.Generator().manual_seed(0), shared=True)
        masks = torch.cat([self.mask, 1 - self.mask], 1)
        return probability_kept(self.classifier, self.images, masks, background, self.targets, self.max_batch)

    def kept(self) -> Tensor:
        """The probability from the kept pixels, `[B]`."""
        return self.both[:, 0]

    def removed(self) -> Tensor:
        """The probability from the removed pixels, `[B]`."""
        return self.both[:, 1]


class ReadOnce:
    """A field of `Explanation`: a tensor, None, or a function that is called when the field is first read."""

    def __set_name__(self, owner: type[Explanation], name: str) -> None:
        self.key = f"_{name}"

    def __get__(self, explanation: Explanation | None, owner: Any = None) -> Tensor | None:
        if explanation is None:
            return None  # the default of the dataclass's field
        value: Tensor | Callable[[], Tensor] | None = vars(explanation)[self.key]
        if callable(value) and not isinstance(value, Tensor):
            value = vars(explanation)[self.key] = value()
        return value

    def __set__(self, explanation: Explanation, value: Tensor | Callable[[], Tensor] | None) -> None:
        vars(explanation)[self.key] = value
