"""Several explanations of one image: masks that do not overlap, each sufficient on its own."""

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
"""Images `[B, 3, H, W]`, classes `[B]` and the pixels that masks may keep `[B, 1, H, W]` to an explanation by area."""


@dataclass
class MultipleExplanations:
    """Up to `K` masks of each image, in the order in which they were found.

    Attributes:
        masks: `[B, K, H, W]` in [0, 1], no two of which keep the same pixel by more than a half; zero from `count` on.
        areas: `[B, K]`, NaN from `count` on.
        carried: share of the class's probability that each mask keeps on its own, `[B, K]`, NaN from `count` on.
        count: how many explanations each image has, `[B]`.
        remaining: share of the probability that is left without all of them, `[B]`.
        images: what was explained, `[B, 3, H, W]`.
        labels: names of the classes, `B`.
    """

    masks: Tensor
    areas: Tensor
    carried: Tensor
    count: Tensor
    remaining: Tensor
    images: Tensor
    labels: list[str]

    def plot(self, index: int = 0) -> Figure:
        """The image, each explanation's overlay with its area and what it carries, and what is left without them."""
        count = int(self.count[index])
        masks = self.masks[index, :count, None]
        left = 1 - (self.masks[index] >= 0.5).any(0, keepdim=True).float()
        numbers = zip(self.areas[index, :count].tolist(), self.carried[index, :count].tolist(), strict=True)
        titles = [f"area {area:.2f} keeps {share:.0%}" for area, share in numbers]
        titles = [self.labels[index], *titles, f"without: {float(self.remaining[index]):.0%}"]
        return overlay_row(self.images[index], [torch.ones_like(left), *masks, left], titles)


REACHES = (0.5, 0.25)


def multiple_explanations(
    first: Explanation,
    fit: Fit,
    most: int = 4,
    share: float = 0.9,
    largest: float = 0.5,
    areas: Sequence[float] = SWEEP,
    reaches: Sequence[float] = REACHES,
) -> MultipleExplanations:
    """Explain images over and over, each time without the pixels that earlier masks kept (Byra & Skibbe, WACV 2025).

    Published: an iterative variant finds several masks that do not overlap. Ours: earlier masks' pixels are both
    removed from the image and forbidden to later masks, and each explanation is the smallest sufficient mask. An image
    is done when no area up to `largest` keeps `share` of its probability. All images take their turns together.

    Where an image shows an object twice, the most important pixels are parts of both. So each search is also made for
    masks that gather around the most important place, and the smallest mask of all wins.

    Args:
        first: an explanation by area (`by_area`) of the whole images, for instance of `ltx.attribution.inr.fit_inr`.
        fit: makes such an explanation anew where some pixels are taken; sees the images without them.
        most: explanations of an image, at most.
        share: of the whole image's probability that an explanation must keep on its own.
        largest: no larger area counts as an explanation.
        areas: the grid on which the smallest is searched.
        reaches: the distances from the most important place, as shares of the shorter side, at which a pixel's
            importance counts for nothing; a search each, of `len(areas) + 4` passes of the classifier. Empty = only
            the masks as they are.

    Raises:
        InputError: `first` knows no areas.
    """
    whole = first.by_area
    if whole is None or most < 1 or not all(reach > 0 for reach in reaches):
        raise InputError(
            f"most={most}, reaches={list(reaches)}, method={first.method}; need most >= 1, reaches > 0 and an "
            "explanation by area"
        )
    images, background = whole.images, whole.background
    taken = torch.zeros_like(images[:, :1])
    live = torch.ones(len(images), dtype=torch.bool, device=images.device)
    masks, found_areas, carried = [], [], []
    for turn in range(most):
        rows = live.nonzero().squeeze(1)
        free = 1 - taken[rows]
        again = whole
        if turn:
            seen = fit(keep(images[rows], free, background[rows]), whole.targets[rows], free).by_area
            assert seen is not None
            again = seen

        def smallest(ask: Ask, rows: Tensor = rows) -> Sufficient:
            # What counts is the prediction from the mask's own pixels of the image as it is.
            targets, probability = whole.targets[rows], whole.probability[rows]
            asked = AreaMasks(
                whole.classifier, images[rows], background[rows], targets, probability, ask, whole.max_batch
            )
            return asked.smallest_sufficient(share, areas, largest=largest)

        found = smallest(again.ask)
        for ask in gathered(again, free, reaches):
            found = _smaller(found, smallest(ask))
        good = ~found.areas.isnan()
        live = torch.zeros_like(live).index_put((rows[good],), torch.tensor(True, device=images.device))
        mask = torch.zeros_like(taken).index_put((rows[good],), found.masks[good])
        area = torch.full_like(whole.probability, torch.nan).index_put((rows[good],), found.areas[good])
        kept = torch.full_like(area, torch.nan).index_put((rows[good],), found.probability[good])
        if not bool(live.any()):
            break
        taken = torch.maximum(taken, (mask >= 0.5).to(taken))
        masks.append(mask)
        found_areas.append(area)
        carried.append(kept / whole.probability)
    if not masks:
        masks, nothing = [torch.zeros_like(taken)], torch.full_like(whole.probability, torch.nan)
        found_areas, carried = [nothing], [nothing]
    areas_found = torch.stack(found_areas, 1)
    remaining = whole.kept(1 - taken)[:, 0] / whole.probability
    count = (~areas_found.isnan()).sum(1)
    return MultipleExplanations(
        torch.cat(masks, 1), areas_found, torch.stack(carried, 1), count, remaining, images, first.labels
    )


@torch.no_grad()
def gathered(asked: AreaMasks, allowed: Tensor, reaches: Sequence[float]) -> Iterator[Ask]:
    """Masks of any area that gather around the most important place, for each reach.

    A pixel's importance is the share of areas at which it is kept; from it, `(distance / reach)²` is taken.

    Args:
        allowed: which pixels a mask may keep, `[B, 1, H, W]`.
        reaches: shares of the shorter side at which the most important pixel counts as little as one never kept.
    """
    if not reaches:
        return
    importance = asked(MAP_AREAS).mean(1, keepdim=True)
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
    own = F.interpolate(scores, size, mode="bilinear").expand(-1, areas.shape[1], -1, -1)
    return masks_of_area(own, areas, 0.02, F.interpolate(allowed, size, mode="nearest"))


def _smaller(one: Sufficient, other: Sufficient) -> Sufficient:
    better = other.areas.nan_to_num(torch.inf) < one.areas.nan_to_num(torch.inf)
    return Sufficient(
        torch.where(better, other.areas, one.areas),
        torch.where(better[:, None, None, None], other.masks, one.masks),
        torch.where(better, other.probability, one.probability),
    )
