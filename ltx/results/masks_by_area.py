"""Masks of any area for a batch of images, and the class probability that each keeps."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ltx.classifier.classifier import CPU_ROWS, Classifier
from ltx.masking.area_sampling import SWEEP
from ltx.masking.fill import keep
from ltx.runtime.devices import tensor_on
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes

Ask = Callable[[Tensor, tuple[int, int] | None], Tensor]
"""Maps areas `[B, A]`, and a height and width, to masks `[B, A, H, W]`. With None instead of a size, the network
evaluates its own grid and the masks are enlarged to the size of the images."""


class Sufficient(NamedTuple):
    """The smallest sufficient masks.

    Attributes:
        areas: `[B]`; NaN if no area suffices.
        masks: `[B, 1, H, W]`, the masks of these areas, or of the largest area if none suffices.
        probability: probability of the target class under the mask, `[B]`.
    """

    areas: Tensor
    masks: Tensor
    probability: Tensor


class Sweep(NamedTuple):
    """Masks of increasing area.

    Attributes:
        areas: the areas, ascending.
        masks: `[B, A, H, W]`.
        kept: probability of the target class under each mask, `[B, A]`.
        entry: the smallest area at which each pixel is kept, `[B, 1, H, W]`; 1 = at none.
    """

    areas: Sequence[float]
    masks: Tensor
    kept: Tensor
    entry: Tensor


@torch.no_grad()
@takes(images="float [B, C, H, W]", masks="float [B, A, H, W]", background="float [B, C, H, W]", targets="int64 [B]")
def probability_kept(
    classifier: Classifier, images: Tensor, masks: Tensor, background: Tensor, targets: Tensor, max_batch: int = 64
) -> Tensor:
    """Probability of the target class under each mask.

    Args:
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1].
        masks: `[B, A, H, W]` in [0, 1].
        background: fill for removed pixels, `[B, 3, H, W]`.
        targets: target classes, `[B]`.
        max_batch: maximum number of masked images per forward pass.

    Returns:
        `[B, A]`.
    """
    count = masks.shape[1]
    rows = torch.arange(len(images), device=masks.device).repeat_interleave(count)
    step = min(CPU_ROWS, max_batch) if masks.device.type == "cpu" else max_batch
    probabilities = [
        classifier.log_probability(classifier(keep(images[part], mask[:, None], background[part])), targets[part]).exp()
        for part, mask in zip(torch.split(rows, step), torch.split(masks.flatten(0, 1), step), strict=True)
    ]
    return torch.cat(probabilities).view(-1, count)


class AreaMasks:
    """Masks of a batch of images for any area.

    Args:
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1].
        background: fill for removed pixels, `[B, 3, H, W]`.
        targets: target classes, `[B]`.
        probability: probability of the target class for the full images, `[B]`.
        ask: computes the masks.
        max_batch: maximum number of masked images per forward pass of the classifier.

    Raises:
        InputError: the tensors do not fit each other.
    """

    @takes(images="float [B, C, H, W]", background="float [B, C, H, W]", targets="int64 [B]", probability="float [B]")
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
        """Compute masks in [0, 1].

        Args:
            areas: one area, several `[A]`, or several per image `[B, A]`.
            size: height and width at which the network is evaluated. None = on its own grid, as in training, with the
                masks enlarged to the size of the images, which is not exactly the mask of every pixel.

        Returns:
            `[B, A, H, W]`.

        Raises:
            InputError: an area outside (0, 1), or areas of another shape.
        """
        try:
            rows = tensor_on(self.images.device, areas, torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"area={reprlib.repr(areas)}; give numbers between 0 and 1") from error
        rows = rows.reshape(1, -1) if rows.ndim < 2 else rows
        if not rows.numel() or rows.ndim > 2 or len(rows) not in (1, len(self.images)):
            raise InputError(f"areas of shape {tuple(rows.shape)} for {len(self.images)} images; give [A] or [B, A]")
        if not bool(((rows > 0) & (rows < 1)).all()):
            given = areas.tolist() if isinstance(areas, Tensor) else areas
            raise InputError(f"area={reprlib.repr(given)}; give shares of the image between 0 and 1")
        return self.ask(rows.expand(len(self.images), -1), size)

    def kept(self, masks: Tensor) -> Tensor:
        """Probability of the target class, `[B, A]`, under each mask `[B, A, H, W]`."""
        return probability_kept(self.classifier, self.images, masks, self.background, self.targets, self.max_batch)

    def entry(self, areas: Sequence[float] = SWEEP) -> Tensor:
        """The smallest of these areas at which each pixel is kept, `[B, 1, H, W]`; 1 if it is kept at none.

        For nested masks this map contains all of them: the mask of area `a` is where the map is `a` or less.
        """
        ascending = sorted(areas)
        return _entry(self(ascending), ascending)

    @cached_property
    def sweep(self) -> Sweep:
        """The masks of the areas `SWEEP`, computed once."""
        masks = self()
        return Sweep(SWEEP, masks, self.kept(masks), _entry(masks, SWEEP))

    def smallest_sufficient(
        self, share: float = 0.9, areas: Sequence[float] = SWEEP, halvings: int = 4, largest: float = 1.0
    ) -> Sufficient:
        """Search for the smallest area whose mask keeps `share` of the class probability; no training.

        All areas are tried together, then the interval below the smallest that suffices is halved `halvings` times.
        All images are searched at once, with `len(areas) + halvings` forward passes of the classifier per image.

        Args:
            share: share of the probability for the full image, in (0, 1].
            areas: the grid of the search.
            halvings: refinements after the grid.
            largest: areas above this one are not considered.

        Raises:
            InputError: `share` outside (0, 1], or no area to try.
        """
        ascending = [area for area in sorted(areas) if area <= largest]
        if not ascending or not 0 < share <= 1:
            raise InputError(
                f"share={share}, areas={list(areas)}, largest={largest}; need a share in (0, 1] and an area"
            )
        threshold = share * self.probability
        masks = self(ascending)
        kept = self.kept(masks)
        enough = kept >= threshold[:, None]
        none = ~enough.any(1)
        first = torch.where(none, len(ascending) - 1, enough.float().argmax(1))
        grid = tensor_on(self.images.device, [0.0, *ascending])
        low, high = grid[first], grid[first + 1]
        rows = torch.arange(len(first), device=first.device)
        mask, probability = masks[rows, first, None], kept[rows, first]
        for _ in range(halvings):
            middle = (low + high) / 2
            tried = self(middle[:, None])
            kept_now = self.kept(tried)[:, 0]
            better = (kept_now >= threshold) & ~none
            low, high = torch.where(better, low, middle), torch.where(better, middle, high)
            mask = torch.where(better[:, None, None, None], tried, mask)
            probability = torch.where(better, kept_now, probability)
        return Sufficient(torch.where(none, torch.nan, high), mask, probability)


def _entry(masks: Tensor, ascending: Sequence[float]) -> Tensor:
    inside = masks >= 0.5
    smallest = tensor_on(masks.device, ascending)[inside.float().argmax(1, keepdim=True)]
    return torch.where(inside.any(1, keepdim=True), smallest, torch.ones_like(smallest))
