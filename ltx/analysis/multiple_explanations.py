"""Multiple explanations of one image: masks that do not overlap, each sufficient on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from ltx.explainers.inr import MAP_AREAS
from ltx.masking.area_sampling import SWEEP
from ltx.masking.area_threshold import masks_of_area
from ltx.masking.fill import gaussian_blur, keep
from ltx.results.explanation import Explanation
from ltx.results.masks_by_area import AreaMasks, Ask, Sufficient
from ltx.results.pictures import overlay_row
from ltx.runtime.errors import InputError

Fit = Callable[[Tensor, Tensor, Tensor], Explanation]
"""Images `[B, 3, H, W]`, target classes `[B]` and allowed pixels `[B, 1, H, W]` to an explanation by area."""

REACHES = (0.5, 0.25)
"""Default distances at which the importance of a pixel is cancelled, as shares of the image's shorter side."""


@dataclass
class MultipleExplanations:
    """Up to `K` masks of each image, in the order in which they were found.

    Attributes:
        masks: `[B, K, H, W]` in [0, 1]; no two of them keep the same pixel with more than 0.5. Zero from `count` on.
        areas: area of each mask, `[B, K]`; NaN from `count` on.
        carried: share of the class's probability that each mask preserves on its own, `[B, K]`; NaN from `count` on.
        count: number of explanations of each image, `[B]`.
        remaining: share of the probability that remains without all of them, `[B]`.
        images: the explained images, `[B, 3, H, W]`.
        labels: names of the target classes, one per image.
    """

    masks: Tensor
    areas: Tensor
    carried: Tensor
    count: Tensor
    remaining: Tensor
    images: Tensor
    labels: list[str]

    def plot(self, index: int = 0) -> Figure:
        """Plot the image, the overlay of each explanation, and the image without all of them."""
        count = int(self.count[index])
        masks = self.masks[index, :count, None]
        outside = 1 - (self.masks[index] >= 0.5).any(0, keepdim=True).float()
        numbers = zip(self.areas[index, :count].tolist(), self.carried[index, :count].tolist(), strict=True)
        titles = [f"area {area:.2f} keeps {share:.0%}" for area, share in numbers]
        titles = [self.labels[index], *titles, f"without: {float(self.remaining[index]):.0%}"]
        return overlay_row(self.images[index], [torch.ones_like(outside), *masks, outside], titles)


@dataclass(frozen=True)
class SearchSettings:
    """How multiple explanations are searched for.

    Attributes:
        most: largest number of explanations per image.
        share: share of the full image's probability that an explanation must preserve on its own.
        largest: largest area of an explanation.
        areas: grid of areas for the search.
        reaches: see `gathered_masks`; each adds a search of `len(areas) + 4` classifier passes. Empty = only the
            network's masks.

    Raises:
        InputError: `most` or a reach is not positive.
    """

    most: int = 4
    share: float = 0.9
    largest: float = 0.5
    areas: Sequence[float] = SWEEP
    reaches: Sequence[float] = REACHES

    def __post_init__(self) -> None:
        if self.most < 1 or not all(reach > 0 for reach in self.reaches):
            raise InputError(f"most={self.most}, reaches={list(self.reaches)}; need most >= 1 and reaches > 0")


def multiple_explanations(first: Explanation, fit: Fit, settings: SearchSettings | None = None) -> MultipleExplanations:
    """Explain images repeatedly, each time without the pixels of the previous masks (Byra & Skibbe, WACV 2025).

    The published iterative variant finds several masks that do not overlap. Here, the pixels of previous masks are both
    removed from the image and forbidden to later masks, and each explanation is the smallest sufficient mask. An image
    is finished when no area up to `largest` preserves `share` of its probability. All images are searched together.

    In an image that shows an object twice, the most important pixels belong to both instances. Each search is therefore
    also made for masks that gather around the most important pixel, and the smallest mask of all searches is kept.

    Args:
        first: an explanation by area (`by_area`) of the full images, for instance of `ltx.attribution.inr.fit_inr`.
        fit: computes such an explanation when some pixels are forbidden; its images do not show them.
        settings: how to search; None = the defaults.

    Raises:
        InputError: `first` has no masks by area.
    """
    settings = SearchSettings() if settings is None else settings
    full = first.by_area
    if full is None:
        raise InputError(f"method={first.method}: multiple explanations need an explanation by area")
    taken = torch.zeros_like(full.images[:, :1])
    live = torch.ones(len(taken), dtype=torch.bool, device=taken.device)
    turns: list[Sufficient] = []
    while len(turns) < settings.most:
        rows = live.nonzero().squeeze(1)
        allowed = 1 - taken[rows]
        by_area = full
        if turns:
            refitted = fit(keep(full.images[rows], allowed, full.background[rows]), full.targets[rows], allowed).by_area
            assert refitted is not None
            by_area = refitted
        turn = _scattered(_smallest(full, by_area, rows, allowed, settings), rows, taken)
        live = ~turn.areas.isnan()
        if not bool(live.any()):
            break
        taken = torch.maximum(taken, (turn.masks >= 0.5).to(taken))
        turns.append(turn)
    if not turns:
        nothing = torch.full_like(full.probability, torch.nan)
        turns = [Sufficient(nothing, torch.zeros_like(taken), nothing)]
    areas = torch.stack([turn.areas for turn in turns], 1)
    return MultipleExplanations(
        masks=torch.cat([turn.masks for turn in turns], 1),
        areas=areas,
        carried=torch.stack([turn.probability / full.probability for turn in turns], 1),
        count=(~areas.isnan()).sum(1),
        remaining=full.kept(1 - taken)[:, 0] / full.probability,
        images=full.images,
        labels=first.labels,
    )


def _smallest(
    full: AreaMasks, by_area: AreaMasks, rows: Tensor, allowed: Tensor, settings: SearchSettings
) -> Sufficient:
    """The smallest sufficient masks of some rows of the batch, over all searches.

    Masks come from an explanation of images without the taken pixels, but are evaluated on the full images.
    """

    def search(ask: Ask) -> Sufficient:
        masks = AreaMasks(
            full.classifier,
            full.images[rows],
            full.background[rows],
            full.targets[rows],
            full.probability[rows],
            ask,
            full.max_batch,
        )
        return masks.smallest_sufficient(settings.share, settings.areas, largest=settings.largest)

    smallest = search(by_area.ask)
    for ask in gathered_masks(by_area, allowed, settings.reaches):
        smallest = _smaller(smallest, search(ask))
    return smallest


def _scattered(result: Sufficient, rows: Tensor, like: Tensor) -> Sufficient:
    """Results of some rows as results of the whole batch, with zeros and NaN elsewhere."""
    good = ~result.areas.isnan()
    place = (rows[good],)
    nothing = torch.full_like(like[:, 0, 0, 0], torch.nan)
    return Sufficient(
        nothing.index_put(place, result.areas[good]),
        torch.zeros_like(like).index_put(place, result.masks[good]),
        nothing.index_put(place, result.probability[good]),
    )


@torch.no_grad()
def gathered_masks(by_area: AreaMasks, allowed: Tensor, reaches: Sequence[float]) -> Iterator[Ask]:
    """Masks of any area that gather around the most important pixel, one function per reach.

    The importance of a pixel is the share of areas at which it is kept, minus `(distance / reach)²`.

    Args:
        by_area: the masks that define the importance.
        allowed: pixels that a mask may keep, `[B, 1, H, W]`.
        reaches: distances, as shares of the shorter side, at which the most important pixel would rank like one that
            is never kept.
    """
    if not reaches:
        return
    importance = by_area(MAP_AREAS).mean(1, keepdim=True)
    height, width = importance.shape[-2:]
    side = min(height, width)
    peak = (gaussian_blur(importance, side / 16) * allowed).flatten(1).argmax(1)[:, None, None, None]
    down = torch.arange(height, device=peak.device)[:, None] - peak // width
    across = torch.arange(width, device=peak.device) - peak % width
    distance = (down.square() + across.square()) / side**2
    for reach in reaches:
        yield partial(_of_area, importance - distance / reach**2, allowed)


def _of_area(scores: Tensor, allowed: Tensor, areas: Tensor, size: tuple[int, int] | None) -> Tensor:
    size = size or (scores.shape[-2], scores.shape[-1])
    resized = F.interpolate(scores, size, mode="bilinear").expand(-1, areas.shape[1], -1, -1)
    return masks_of_area(resized, areas, 0.02, F.interpolate(allowed, size, mode="nearest"))


def _smaller(one: Sufficient, other: Sufficient) -> Sufficient:
    better = other.areas.nan_to_num(torch.inf) < one.areas.nan_to_num(torch.inf)
    return Sufficient(
        torch.where(better, other.areas, one.areas),
        torch.where(better[:, None, None, None], other.masks, one.masks),
        torch.where(better, other.probability, one.probability),
    )
