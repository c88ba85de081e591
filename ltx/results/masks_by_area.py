"""What an area-conditioned network answers about a batch of images: masks of any area, and what they carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ltx.classifier.classifier import CPU_ROWS, Classifier
from ltx.masking.area_sampling import SWEEP
from ltx.masking.fill import keep
from ltx.runtime.errors import InputError

Ask = Callable[[Tensor, tuple[int, int] | None], Tensor]
"""Areas `[B, A]` and a height and width to masks `[B, A, H, W]`; None = masks of the network's own grid, enlarged to
the images' size."""


class Sufficient(NamedTuple):
    """The smallest sufficient masks.

    Attributes:
        areas: `[B]`; NaN where no area suffices.
        masks: `[B, 1, H, W]`, of these areas, or of the largest area where none suffices.
        probability: of the class under the mask, `[B]`.
    """

    areas: Tensor
    masks: Tensor
    probability: Tensor


class Sweep(NamedTuple):
    """Masks of growing area.

    Attributes:
        areas: as asked for, ascending.
        masks: `[B, A, H, W]`.
        kept: the class's probability under each, `[B, A]`.
        entry: the smallest area at which each pixel is kept, `[B, 1, H, W]`; 1 = in none.
    """

    areas: Sequence[float]
    masks: Tensor
    kept: Tensor
    entry: Tensor


@torch.no_grad()
def probability_kept(
    classifier: Classifier, images: Tensor, masks: Tensor, background: Tensor, targets: Tensor, max_batch: int = 64
) -> Tensor:
    """The probability `[B, A]` of classes `[B]` under each mask `[B, A, H, W]` of images `[B, 3, H, W]`.

    Args:
        max_batch: masked images of one pass, at most.
    """
    count = masks.shape[1]
    rows = torch.arange(len(images), device=masks.device).repeat_interleave(count)
    step = min(CPU_ROWS, max_batch) if masks.device.type == "cpu" else max_batch
    found = [
        classifier.log_probability(classifier(keep(images[part], mask[:, None], background[part])), targets[part]).exp()
        for part, mask in zip(rows.split(step), masks.flatten(0, 1).split(step), strict=True)
    ]
    return torch.cat(found).view(-1, count)


class AreaMasks:
    """Masks of a batch of images for every area that is asked for.

    Args:
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1].
        background: what removed pixels become, `[B, 3, H, W]`.
        targets: the classes asked about, `[B]`.
        probability: of these classes for the whole images, `[B]`.
        ask: makes the masks.
        max_batch: masked images of one pass of the classifier, at most.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        background: Tensor,
        targets: Tensor,
        probability: Tensor,
        ask: Ask,
        max_batch: int = 64,
    ) -> None:
        self.classifier, self.images, self.background = classifier, images, background
        self.targets, self.probability, self.ask, self.max_batch = targets, probability, ask, max_batch

    @torch.no_grad()
    def __call__(self, areas: float | Sequence[float] | Tensor = SWEEP, size: tuple[int, int] | None = None) -> Tensor:
        """Masks `[B, A, H, W]` in [0, 1].

        Args:
            areas: one area, several `[A]`, or several for each image `[B, A]`.
            size: height and width at which the network is evaluated; None = on its own grid, as in training, the mask
                then enlarged to the images' size: not quite the mask of every pixel.

        Raises:
            InputError: an area that is no share between 0 and 1.
        """
        asked = torch.as_tensor(areas, dtype=torch.float32).to(self.images)
        asked = asked.reshape(1, -1) if asked.ndim < 2 else asked
        if not asked.numel() or asked.ndim > 2 or len(asked) not in (1, len(self.images)):
            raise InputError(f"areas of shape {tuple(asked.shape)} for {len(self.images)} images; give some, or [B, A]")
        if not bool(((asked > 0) & (asked < 1)).all()):
            raise InputError(f"area={areas}; give shares of the image between 0 and 1")
        return self.ask(asked.expand(len(self.images), -1), size)

    def kept(self, masks: Tensor) -> Tensor:
        """The class's probability `[B, A]` under each mask `[B, A, H, W]`."""
        return probability_kept(self.classifier, self.images, masks, self.background, self.targets, self.max_batch)

    def entry(self, areas: Sequence[float] = SWEEP) -> Tensor:
        """The smallest of these areas at which each pixel is kept, `[B, 1, H, W]`; 1 where it is kept in none.

        With nested masks this one map holds all of them: the mask of area `a` is where it is at most `a`.
        """
        ascending = sorted(areas)
        return _entry(self(ascending), ascending)

    @cached_property
    def sweep(self) -> Sweep:
        """The masks of `SWEEP`, made once."""
        masks = self()
        return Sweep(SWEEP, masks, self.kept(masks), _entry(masks, SWEEP))

    def smallest_sufficient(
        self, share: float = 0.9, areas: Sequence[float] = SWEEP, halvings: int = 4, largest: float = 1.0
    ) -> Sufficient:
        """The smallest area whose mask keeps `share` of the class's probability, by search, without training.

        The areas are tried together; then the interval below the first that suffices is halved `halvings` times. All
        images are searched at once: `len(areas) + halvings` passes of the classifier an image.

        Args:
            share: of the whole image's probability.
            areas: the grid of the search.
            largest: no area above this one counts.
        """
        ascending = [area for area in sorted(areas) if area <= largest]
        if not ascending or not 0 < share <= 1:
            raise InputError(
                f"share={share}, areas={list(areas)}, largest={largest}; need a share in (0, 1] and an area"
            )
        wanted = share * self.probability
        masks = self(ascending)
        kept = self.kept(masks)
        enough = kept >= wanted[:, None]
        none = ~enough.any(1)
        first = torch.where(none, len(ascending) - 1, enough.float().argmax(1))
        grid = self.images.new_tensor([0.0, *ascending])
        low, high = grid[first], grid[first + 1]
        rows = torch.arange(len(first), device=first.device)
        mask, probability = masks[rows, first, None], kept[rows, first]
        for _ in range(halvings):
            middle = (low + high) / 2
            tried = self(middle[:, None])
            found = self.kept(tried)[:, 0]
            better = (found >= wanted) & ~none
            low, high = torch.where(better, low, middle), torch.where(better, middle, high)
            mask = torch.where(better[:, None, None, None], tried, mask)
            probability = torch.where(better, found, probability)
        return Sufficient(torch.where(none, torch.nan, high), mask, probability)


def _entry(masks: Tensor, ascending: Sequence[float]) -> Tensor:
    inside = masks >= 0.5
    found = torch.tensor(ascending, device=masks.device)[inside.float().argmax(1, keepdim=True)]
    return torch.where(inside.any(1, keepdim=True), found, torch.ones_like(found))
