"""Perturbation curves: the classifier's predictions as pixels are removed in the order of a map.

All metrics use the same order. Pixels are ranked by a stable sort, highest value first, with ties in row-major order
(left to right, then top to bottom). "Lowest first" is the same order reversed. One sort therefore serves every curve,
and maps with ties, including constant maps, have one defined result on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.runtime.devices import tensor_on
from ltx.runtime.errors import InputError

Order = Literal["highest", "lowest"]
ORDERS: tuple[Order, ...] = ("highest", "lowest")


class Prediction(NamedTuple):
    """The classifier's prediction for the target class `y`; both tensors have the same, arbitrary shape.

    Attributes:
        probability: `p_y`, float32.
        correct: bool, whether `y` has the highest logit or, for sigmoid heads, `p_y >= 0.5`.
    """

    probability: Tensor
    correct: Tensor


def default_max_batch(device: torch.device) -> int:
    """Default number of images in one forward pass: 256 on a GPU, 8 on a CPU so that activations stay in its caches."""
    return 8 if device.type == "cpu" else 256


def _checked_max_batch(max_batch: int | None, images: Tensor) -> int:
    if max_batch is None:
        return default_max_batch(images.device)
    if max_batch < 1:
        raise InputError(f"max_batch={max_batch}; must be 1 or more")
    return max_batch


def check_maps(images: Tensor, maps: Tensor, names: Sequence[str] | None = None) -> None:
    """Check the shape and the values of maps.

    Raises:
        InputError: maps that are not `[B, 1, H, W]` at the images' size, or that contain NaN or infinity. The message
            names the images (`names`, otherwise their indices).
    """
    expected = (images.shape[0], 1, *images.shape[-2:])
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        kind = str(maps.dtype) if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(f"maps are of type {kind}; the images require a tensor of floats {expected}")
    if tuple(maps.shape) != expected:
        raise InputError(f"maps have shape {tuple(maps.shape)}; the images require {expected}")
    finite = maps.isfinite().flatten(1).all(1).tolist()  # one transfer from the device
    bad = [i for i, good in enumerate(finite) if not good]
    if bad:
        which = ", ".join(str(names[i]) if names is not None else f"number {i}" for i in bad[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(
            f"the map of image {which}{more} contains NaN or infinity and cannot be ranked; fix the method"
        )


def is_constant(maps: Tensor) -> Tensor:
    """Whether each map `[B, 1, H, W]` has one value everywhere, so that it does not rank pixels, `[B]` bool."""
    low, high = maps.flatten(1).aminmax(dim=1)
    return low == high


def min_max(maps: Tensor) -> Tensor:
    """Scale each map `[B, 1, H, W]` to [0, 1]; a constant map becomes 0.5 everywhere."""
    maps = maps / 2  # the difference of two finite numbers may overflow
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    stretched = (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
    return torch.where(high > low, stretched, torch.full_like(maps, 0.5)).clamp(0, 1)


def rank_pixels(maps: Tensor) -> Tensor:
    """Rank of every pixel, int32 `[B, H·W]`, of maps `[B, 1, H, W]`: 0 is the highest; ties in row-major order."""
    order = maps.flatten(1).sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(order.shape[1], device=maps.device, dtype=torch.int32).expand_as(order)
    return torch.empty_like(places.contiguous()).scatter_(1, order, places)


def counts_removed(fractions: Sequence[float], pixels: int) -> list[int]:
    """Number of pixels that each fraction removes, rounded down as in the released LTX code."""
    for fraction in fractions:
        if not 0 <= fraction <= 1:
            raise InputError(f"fraction={fraction} of pixels removed; fractions must lie in [0, 1]")
    return [int(fraction * pixels + 1e-6) for fraction in fractions]  # 0.29 * 100 is 28.999… in floating point


def read_logits(classifier: Classifier, logits: Tensor, targets: Tensor) -> Prediction:
    """Convert logits `[B, K]` and targets `[B]` to a `Prediction` `[B]`."""
    targets = targets.to(logits.device)
    probability = classifier.log_probability(logits, targets).exp()
    if classifier.head == "sigmoid":
        return Prediction(probability, probability >= 0.5)
    return Prediction(probability, logits.argmax(1) == targets)


@torch.no_grad()
def predict(classifier: Classifier, images: Tensor, targets: Tensor, max_batch: int | None = None) -> Prediction:
    """Classify images `[B, 3, H, W]`, up to `max_batch` (see `curves`) in one forward pass; a `Prediction` `[B]`."""
    max_batch = _checked_max_batch(max_batch, images)
    parts = [
        read_logits(classifier, classifier(part), classes)
        for part, classes in zip(images.split(max_batch), targets.split(max_batch), strict=True)
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
    max_batch: int | None = None,
    names: Sequence[str] | None = None,
) -> dict[Order, Prediction]:
    """Predictions as a growing fraction of the pixels is replaced, in the order of each image's map.

    All fractions, orders and images share one sort of the maps and one queue of forward passes. Removing nothing gives
    the full image and removing everything gives the background. Both are the same for every map, so the caller
    computes `unmasked` and `removed` once for all methods.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        maps: `[B, 1, H, W]`, any range; higher = more important.
        targets: class indices `[B]`.
        fractions: fraction of pixels removed at each of `S` steps, in [0, 1].
        background: `[B, 3, H, W]`, replaces removed pixels.
        orders: `highest` removes the most important pixels first, `lowest` the least important ones.
        unmasked, removed: predictions `[B]` for the full images and for `background`; None = computed if needed.
        max_batch: maximum number of images perturbed and classified at once; bounds memory and does not change results.
            None = `default_max_batch`.
        names: the images' names, for error messages.

    Returns:
        A `Prediction` of shape `[B, S]` for each order.

    Raises:
        InputError: maps with the wrong shape or non-finite values, a fraction outside [0, 1], `max_batch` below 1.
    """
    check_maps(images, maps, names)
    max_batch = _checked_max_batch(max_batch, images)
    pixels = images.shape[-2] * images.shape[-1]
    counts = counts_removed(fractions, pixels)
    if unmasked is None and 0 in counts:
        unmasked = predict(classifier, images, targets, max_batch)
    if removed is None and pixels in counts:
        removed = predict(classifier, background, targets, max_batch)
    inner = sorted({count for count in counts if 0 < count < pixels})
    # Both orders are intervals of one ranking: highest first keeps [count, pixels), lowest first [0, pixels - count).
    kept = [(count, pixels) if order == "highest" else (0, pixels - count) for order in orders for count in inner]
    ranks = rank_pixels(maps)
    masked = _predict_kept(classifier, images, ranks, targets, background, kept, max_batch) if kept else None
    ends = {0: unmasked, pixels: removed}
    result: dict[Order, Prediction] = {}
    for place, order in enumerate(orders):
        columns = {count: prediction for count, prediction in ends.items() if prediction is not None}
        if masked is not None:
            for column, count in enumerate(inner, start=place * len(inner)):
                columns[count] = Prediction(masked.probability[:, column], masked.correct[:, column])
        probability = torch.stack([columns[count].probability for count in counts], 1)
        result[order] = Prediction(probability, torch.stack([columns[count].correct for count in counts], 1))
    return result


def _predict_kept(
    classifier: Classifier,
    images: Tensor,
    ranks: Tensor,
    targets: Tensor,
    background: Tensor,
    kept: list[tuple[int, int]],
    max_batch: int,
) -> Prediction:
    """Predictions `[B, len(kept)]`; entry `[b, s]` keeps the pixels of image b ranked in `[low_s, high_s)`."""
    low, high = tensor_on(images.device, kept, torch.int32).T.view(2, -1, 1, 1, 1)
    ranks = ranks.view(images.shape[0], 1, *images.shape[-2:])
    steps, total = len(kept), len(images) * len(kept)
    every_target = targets.repeat_interleave(steps)
    parts = []
    for begin in range(0, total, max_batch):
        end = min(begin + max_batch, total)
        perturbed = images.new_empty(end - begin, *images.shape[1:])
        # Image by image, without copies of its pixels. `lerp` takes an eighth of the time of `torch.where` on a CPU.
        for image in range(begin // steps, -(-end // steps)):
            first, last = max(begin, image * steps), min(end, (image + 1) * steps)
            those = slice(first - image * steps, last - image * steps)
            keeps = ((ranks[image] >= low[those]) & (ranks[image] < high[those])).to(images.dtype)
            torch.lerp(background[image], images[image], keeps, out=perturbed[first - begin : last - begin])
        parts.append(read_logits(classifier, classifier(perturbed), every_target[begin:end]))
    shape = (images.shape[0], steps)
    return Prediction(
        torch.cat([part.probability for part in parts]).view(shape),
        torch.cat([part.correct for part in parts]).view(shape),
    )
