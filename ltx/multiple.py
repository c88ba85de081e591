"""Several explanations of one image: masks that do not overlap, each sufficient on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ltx.areas import SWEEP, AreaMasks
from ltx.errors import InputError
from ltx.explanation import Explanation, overlay_row
from ltx.fill import keep

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
        titles = [f"area {area:.2f} keeps {share:.2f}" for area, share in numbers]
        titles = [self.labels[index], *titles, f"without: {float(self.remaining[index]):.2f}"]
        return overlay_row(self.images[index], [torch.ones_like(left), *masks, left], titles)


def multiple_explanations(
    first: Explanation,
    fit: Fit,
    most: int = 4,
    share: float = 0.9,
    largest: float = 0.5,
    areas: Sequence[float] = SWEEP,
) -> MultipleExplanations:
    """Explain images over and over, each time without the pixels that earlier masks kept (Byra & Skibbe, WACV 2025).

    Published: an iterative variant finds several masks that do not overlap. Ours: earlier masks' pixels are both
    removed from the image and forbidden to later masks, and each explanation is the smallest sufficient mask. An image
    is done when no area up to `largest` keeps `share` of its probability. All images take their turns together.

    Args:
        first: an explanation by area (`by_area`) of the whole images, for instance of `ltx.attribution.inr.fit_inr`.
        fit: makes such an explanation anew where some pixels are taken; sees the images without them.
        most: explanations of an image, at most.
        share: of the whole image's probability that an explanation must keep on its own.
        largest: no larger area counts as an explanation.
        areas: the grid on which the smallest is searched.

    Raises:
        InputError: `first` knows no areas.
    """
    whole = first.by_area
    if whole is None or most < 1:
        raise InputError(f"most={most}, method={first.method}; need most >= 1 and an explanation by area")
    images, background = whole.images, whole.background
    taken = torch.zeros_like(images[:, :1])
    live = torch.ones(len(images), dtype=torch.bool, device=images.device)
    masks, found_areas, carried = [], [], []
    asked = whole
    for turn in range(most):
        if turn:
            rows = live.nonzero().squeeze(1)
            free = 1 - taken[rows]
            again = fit(keep(images[rows], free, background[rows]), whole.targets[rows], free).by_area
            assert again is not None
            # What counts is the prediction from the mask's own pixels of the image as it is.
            asked = AreaMasks(
                whole.classifier,
                images[rows],
                background[rows],
                whole.targets[rows],
                whole.probability[rows],
                again.ask,
            )
        else:
            rows = torch.arange(len(images), device=images.device)
        found = asked.smallest_sufficient(share, areas, largest=largest)
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
