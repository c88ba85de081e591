"""Perturbation curves: what the classifier says as pixels are removed in the order of a map.

The order, stated once for every metric: pixels are ranked by a stable sort, the highest value first, and equal values
in row-major order (left to right, then top to bottom). "Lowest first" is that same order read backwards. So one sort
serves every curve, and maps with ties, constant ones included, have one defined answer on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError

Order = Literal["highest", "lowest"]
ORDERS: tuple[Order, ...] = ("highest", "lowest")


class Prediction(NamedTuple):
    """What the classifier says of the target class `y`; any shape, the same for both.

    Attributes:
        probability: `p_y`, float32.
        correct: whether `y` is the answer: the highest logit, or for sigmoid heads `p_y >= 0.5`. bool.
    """

    probability: Tensor
    correct: Tensor


def default_max_batch(device: torch.device) -> int:
    """Images in one forward pass where nobody says: few enough on a CPU for activations to stay in its caches."""
    return 8 if device.type == "cpu" else 256


def check_maps(images: Tensor, maps: Tensor, names: Sequence[str] | None = None) -> None:
    """Refuse maps that no metric can read.

    Raises:
        InputError: maps that are not `[B, 1, H, W]` at the images' size, or that hold NaN or infinity; the text
            says which image (`names`, else its number).
    """
    wanted = (images.shape[0], 1, *images.shape[-2:])
    if tuple(maps.shape) != wanted:
        raise InputError(f"maps have shape {tuple(maps.shape)}; these images take {wanted}")
    bad = (~maps.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        which = ", ".join(str(names[i]) if names is not None else f"number {i}" for i in bad[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(f"the map of image {which}{more} holds NaN or infinity and cannot be ranked; mend the method")


def min_max(maps: Tensor) -> Tensor:
    """Each map `[B, 1, H, W]` stretched to [0, 1]; a constant map, for which that is 0/0, becomes 0.5 everywhere."""
    maps = maps / 2  # the difference of two finite numbers may not be finite
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    stretched = (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
    return torch.where(high > low, stretched, torch.full_like(maps, 0.5)).clamp(0, 1)


def rank_pixels(maps: Tensor) -> Tensor:
    """Rank of every pixel `[B, H·W]`, int32, of maps `[B, 1, H, W]`: 0 is the highest, ties in row-major order."""
    order = maps.flatten(1).sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(order.shape[1], device=maps.device, dtype=torch.int32).expand_as(order)
    return torch.empty_like(places.contiguous()).scatter_(1, order, places)


def counts_removed(fractions: Sequence[float], pixels: int) -> list[int]:
    """How many of `pixels` each fraction removes: rounded down, as in the released LTX code."""
    for fraction in fractions:
        if not 0 <= fraction <= 1:
            raise InputError(f"fraction={fraction} of pixels removed; fractions lie in [0, 1]")
    return [int(fraction * pixels + 1e-6) for fraction in fractions]  # 0.29 * 100 is 28.999… in floating point


def read_logits(classifier: Classifier, logits: Tensor, targets: Tensor) -> Prediction:
    """The `Prediction` `[B]` for logits `[B, K]` and targets `[B]`."""
    chosen = targets.to(logits.device)
    probability = classifier.log_probability(logits, chosen).exp()
    if classifier.head == "sigmoid":
        return Prediction(probability, probability >= 0.5)
    return Prediction(probability, logits.argmax(1) == chosen)


@torch.no_grad()
def predict(classifier: Classifier, images: Tensor, targets: Tensor, max_batch: int = 64) -> Prediction:
    """The `Prediction` `[B]` for images `[B, 3, H, W]`, at most `max_batch` in one forward pass."""
    parts = [
        read_logits(classifier, classifier(part), chosen)
        for part, chosen in zip(images.split(max_batch), targets.split(max_batch), strict=True)
    ]
    return Prediction(torch.cat([p.probability for p in parts]), torch.cat([p.correct for p in parts]))


@torch.no_grad()
def curves(
    classifier: Classifier,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    fractions: Sequence[float],
    background: Tensor,
    orders: Sequence[Order] = ORDERS,
    unmasked: Prediction | None = None,
    removed: Prediction | None = None,
    max_batch: int = 64,
    names: Sequence[str] | None = None,
) -> dict[Order, Prediction]:
    """Predictions as a growing fraction of the pixels is replaced, in the order of each image's map.

    All fractions, orders and images share one sort of the maps and one queue of forward passes. A fraction that
    removes nothing is the full image and one that removes everything is the background, both the same for every
    map: they are read from `unmasked` and `removed`, which the caller computes once for all methods.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        maps: `[B, 1, H, W]`, any range; higher = more important.
        targets: class indices `[B]`.
        fractions: share of pixels removed at each of `S` steps, in [0, 1].
        background: `[B, 3, H, W]`, what stands where pixels were removed.
        orders: `highest` removes the most important pixels first, `lowest` the least important ones.
        unmasked, removed: predictions `[B]` for the untouched images and for `background`; None = computed if needed.
        max_batch: the most images made and classified at once: bounds memory, changes no result.
        names: the images' names, for errors.

    Returns:
        For each order a `Prediction` of shape `[B, S]`.

    Raises:
        InputError: maps of another shape or not finite, a fraction outside [0, 1], `max_batch` below 1.
    """
    check_maps(images, maps, names)
    if max_batch < 1:
        raise InputError(f"max_batch={max_batch}; give a number of images from 1 up")
    pixels = images.shape[-2] * images.shape[-1]
    gone = counts_removed(fractions, pixels)
    if unmasked is None and 0 in gone:
        unmasked = predict(classifier, images, targets, max_batch)
    if removed is None and pixels in gone:
        removed = predict(classifier, background, targets, max_batch)
    inner = sorted({count for count in gone if 0 < count < pixels})
    # Both orders are intervals of the one ranking: highest first keeps [count, pixels), lowest [0, pixels - count).
    kept = [(count, pixels) if order == "highest" else (0, pixels - count) for order in orders for count in inner]
    made = _predict_kept(classifier, images, rank_pixels(maps), targets, background, kept, max_batch) if kept else None
    found: dict[Order, Prediction] = {}
    for place, order in enumerate(orders):
        columns: dict[int, tuple[Tensor, Tensor]] = {}
        if unmasked is not None:
            columns[0] = (unmasked.probability, unmasked.correct)
        if removed is not None:
            columns[pixels] = (removed.probability, removed.correct)
        for step, count in enumerate(inner):
            assert made is not None
            columns[count] = tuple(values[:, place * len(inner) + step] for values in made)  # type: ignore[assignment]
        probability, correct = (torch.stack([columns[count][i] for count in gone], 1) for i in (0, 1))
        found[order] = Prediction(probability, correct)
    return found


def _predict_kept(
    classifier: Classifier,
    images: Tensor,
    ranks: Tensor,
    targets: Tensor,
    background: Tensor,
    kept: list[tuple[int, int]],
    max_batch: int,
) -> Prediction:
    """Predictions `[B, len(kept)]`, where entry `[b, s]` keeps the pixels of image b ranked in `[low_s, high_s)`."""
    low, high = torch.tensor(kept, device=images.device, dtype=torch.int32).T.unsqueeze(-1)
    ranks = ranks.view(images.shape[0], 1, *images.shape[-2:])
    every = torch.arange(images.shape[0] * len(kept), device=images.device)
    parts = []
    for chunk in every.split(max_batch):
        rows, steps = chunk // len(kept), chunk % len(kept)
        rank = ranks[rows]
        keeps = (rank >= low[steps].view(-1, 1, 1, 1)) & (rank < high[steps].view(-1, 1, 1, 1))
        perturbed = torch.where(keeps, images[rows], background[rows])
        parts.append(read_logits(classifier, classifier(perturbed), targets[rows.to(targets.device)]))
    shape = (images.shape[0], len(kept))
    return Prediction(
        torch.cat([part.probability for part in parts]).view(shape),
        torch.cat([part.correct for part in parts]).view(shape),
    )
