"""IIA, Iterated Integrated Attributions (Barkan et al., ICCV 2023): paths of the input and of inner representations.

`Map = ∫…∫ (u^L - r^L) ∘ q da_L … da_0`. The input is interpolated from black to the image (factor `a_0`), and the
representation `u` of each selected layer from its reference `r`, `v = r + a (u - r)`. IIA2 integrates over the input
and the last layer, IIA3 also over the layer before it.

- Feature maps: `r` is the minimum of each channel over positions, `q = v ∘ ∂f_y/∂v`, averaged over channels.
- Vision transformers: the representations are attention matrices, averaged over heads, `r = 0`, and `q` is Gradient
  Rollout at the interpolant. Only the rows of the tokens that the head reads are needed; the product is averaged over
  these rows.

`variant="paper"` approximates each integral by the trapezoid rule. `variant="released"` is IIA2 as computed by the
authors' code: the input path starts at zero in *normalised* space. For feature maps, the reference is the activation
itself, which leaves `Σ_i relu(A(x_i)) ∘ ∂f_y/∂A(x_i)`, summed over channels, with bicubic upsampling and min-max
normalisation. For ViTs, `relu(A ∘ ∇A)` is averaged over points and heads before a single rollout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from ltx.attribution.attention import attention_chain, has_attention
from ltx.attribution.attention_path import TOLERANCE, path_gradients
from ltx.attribution.feature_layers import FeatureLayer, activation_and_gradient, rescaled, select_layers, upsample
from ltx.attribution.partial_forward import Recording, gradient_after, record
from ltx.attribution.rollout import patch_map, roll_out
from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.runtime.devices import tensor_on
from ltx.runtime.errors import InputError

Variant = Literal["paper", "released"]

KEPT_POINTS = 16
"""Attention matrices of a vision transformer are kept for up to `KEPT_POINTS * max_batch` (inner point, row) pairs."""


def iia(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    depth: int = 2,
    variant: Variant = "paper",
    steps: int | None = None,
    layers: Sequence[str | int] | str | int | None = None,
    tolerance: float = TOLERANCE,
    max_batch: int = 64,
) -> Tensor:
    """IIA2 (`depth=2`) or IIA3 (`depth=3`).

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        depth: 2 or 3, the number of integrals.
        variant: `paper` or `released`, see above; `released` exists for IIA2 only.
        steps: number `n` of intervals (`n + 1` points) of each integral; None = 10 (5 for the released ViT variant).
        layers: `depth - 1` layers, shallow to deep: module names, or block numbers for vision transformers; None = the
            last ones.
        tolerance: for vision transformers, see `ltx.attribution.attention_path`; 0 = exact.
        max_batch: maximum batch size of a forward pass (path points x images); it does not change the result.

    Returns:
        Maps `[B, 1, H, W]`.

    Raises:
        InputError: unknown variant, or the model does not have these layers.
    """
    if variant not in ("paper", "released"):
        raise InputError(f"variant={variant!r} is unknown; allowed: paper, released")
    if variant == "released" and depth != 2:
        raise InputError("variant=released exists for iia2 only; choose method=iia2, or variant=paper")
    if steps is not None and steps < 1:
        raise InputError(f"steps={steps}; give a positive number of intervals")
    classes = explained_classes(classifier, images, targets, max_batch)
    if has_attention(classifier):
        blocks = _blocks(classifier, layers, depth - 1)
        if variant == "released":
            return _released_attention(classifier, images, classes, blocks, steps or 5, tolerance, max_batch)
        return _paper_attention(classifier, images, classes, blocks, steps or 10, tolerance, max_batch)
    selected = select_layers(classifier, layers, depth - 1)
    if variant == "released":
        return _released_features(classifier, images, classes, selected[0], steps or 10, max_batch)
    return _paper_features(classifier, images, classes, selected, steps or 10, max_batch)


# -- vision transformers -------------------------------------------------------------------------------------------


def _paper_attention(
    classifier: Classifier, images: Tensor, targets: Tensor, blocks: list[int], steps: int, tolerance: float, rows: int
) -> Tensor:
    grid = trapezoid(steps)
    inner = list(product(grid, repeat=len(blocks)))
    total: Tensor | None = None
    rows_read = attention_chain(classifier).rows_read
    # Every inner point keeps attention matrices for each row until the path is complete.
    batch = max(1, min(rows, KEPT_POINTS * rows // len(inner)))
    for part in _path_rows(images, black(images), [a for a, _ in grid], batch):
        path = path_gradients(
            classifier,
            part.images,
            targets[part.image],
            blocks,
            [tuple(a for a, _ in p) for p in inner],
            rows,
            tolerance,
        )
        outer = tensor_on(images.device, [w for _, w in grid])[part.point]
        for k, relevances in enumerate(path.points()):
            weight = outer
            for _, w in inner[k]:
                weight = weight * w
            # Row by row: if the head reads several tokens, the mean of products differs from the product of means.
            carried = roll_out(relevances, torch.eye(len(path.start), device=images.device)[rows_read])
            tokens = torch.einsum("r,srn,srn->sn", path.start[rows_read], path.attention[k][:, rows_read], carried)
            total = _add(total, part.image, weight[:, None] * tokens, len(images))
    assert total is not None
    return patch_map(classifier, total, images)


def _released_attention(
    classifier: Classifier, images: Tensor, targets: Tensor, blocks: list[int], steps: int, tolerance: float, rows: int
) -> Tensor:
    factors = [i / steps for i in range(steps + 1)]
    totals: list[Tensor | None] = [None] * len(attention_chain(classifier))
    start = None
    for part in _path_rows(images, classifier.normalisation[0], factors, rows):
        path = path_gradients(
            classifier, part.images, targets[part.image], blocks, [(a,) for a in factors], rows, tolerance
        )
        start = path.start
        for block, relevance in enumerate(path.mean()):
            totals[block] = _add(totals[block], part.image, relevance / len(factors), len(images))
    assert start is not None
    return patch_map(classifier, roll_out([total for total in totals if total is not None], start), images)


def _blocks(classifier: Classifier, layers: Sequence[str | int] | str | int | None, count: int) -> list[int]:
    depth = len(attention_chain(classifier))
    if layers is None:
        if depth < count:
            raise InputError(f"{classifier.name} has {depth} blocks, {count} are needed")
        return list(range(depth - count, depth))
    layers = [layers] if isinstance(layers, (str, int)) else layers
    numbers = [int(str(layer).removeprefix("blocks.")) if _is_block(layer) else -1 for layer in layers]
    if len(numbers) != count or sorted(set(numbers)) != numbers or not all(0 <= n < depth for n in numbers):
        raise InputError(f"layers={list(layers)}; give {count} ascending block numbers from 0 to {depth - 1}")
    return numbers


def _is_block(layer: str | int) -> bool:
    return str(layer).removeprefix("blocks.").isdigit()


# -- feature maps --------------------------------------------------------------------------------------------------


def _paper_features(
    classifier: Classifier, images: Tensor, targets: Tensor, layers: list[FeatureLayer], steps: int, rows: int
) -> Tensor:
    grid = trapezoid(steps)
    total: Tensor | None = None

    def integrate(prefix: Recording, depth: int, part: _Rows, weights: Tensor) -> None:
        nonlocal total
        layer, activation = layers[depth], prefix.value.detach()
        reference = layer.channel_minimum(activation)
        difference = activation - reference
        difference_map = layer.as_map(difference).float()
        step = max(1, rows // len(activation))
        for begin in range(0, len(grid), step):
            points = grid[begin : begin + step]
            count = len(points)
            factors = tensor_on(activation.device, [a for a, _ in points]).to(activation.dtype)
            factors = factors.view(-1, *[1] * activation.ndim)
            value = (reference + factors * difference).flatten(0, 1)
            inner = tensor_on(activation.device, [w for _, w in points])
            image, weight = part.image.repeat(count), (inner[:, None] * weights).flatten()
            if depth + 1 < len(layers):
                every = _Rows(part.images.repeat(count, 1, 1, 1), image, part.point.repeat(count))
                with torch.no_grad(), prefix.replaying(count, value):
                    later = _record(classifier, layers[depth + 1], every.images)
                integrate(later, depth + 1, every, weight)
                continue
            gradient = gradient_after(classifier, prefix, value, targets[image])
            relevance = (layer.as_map(value).float() * layer.as_map(gradient).float()).unflatten(0, (count, -1))
            relevance = (relevance * difference_map).mean(2, keepdim=True).flatten(0, 1)
            total = _add(total, image, relevance * weight.view(-1, 1, 1, 1), len(images))

    for part in _path_rows(images, black(images), [a for a, _ in grid], rows):
        with torch.no_grad():
            first = _record(classifier, layers[0], part.images)
        integrate(first, 0, part, tensor_on(images.device, [w for _, w in grid])[part.point])
    assert total is not None
    return upsample(total, images)


def _released_features(
    classifier: Classifier, images: Tensor, targets: Tensor, layer: FeatureLayer, steps: int, rows: int
) -> Tensor:
    total: Tensor | None = None
    factors = [i / steps for i in range(steps + 1)]
    for part in _path_rows(images, classifier.normalisation[0], factors, rows):
        with torch.no_grad():
            activation, gradient = activation_and_gradient(classifier, layer, part.images, targets[part.image])
        relevance = activation.relu() * gradient
        total = _add(total, part.image, relevance.sum(1, keepdim=True), len(images))
    assert total is not None
    return rescaled(upsample(total, images, "bicubic"))


def _record(classifier: Classifier, layer: FeatureLayer, images: Tensor) -> Recording:
    return record(classifier.model, layer.module, partial(classifier, images), layer.position)


# -- paths ---------------------------------------------------------------------------------------------------------


class _Rows:
    """A batch of (path point, image) pairs: interpolated `images`, and the `image` and `point` index of each row."""

    def __init__(self, images: Tensor, image: Tensor, point: Tensor) -> None:
        self.images, self.image, self.point = images, image, point


def _path_rows(images: Tensor, reference: Tensor, factors: list[float], max_batch: int) -> Iterator[_Rows]:
    """`r + a (x - r)` for every factor and image, in batches of up to `max_batch`; the points of an image are adjacent.

    The number of backward passes of a batch depends on the image that needs most, see `ltx.attribution.attention_path`.
    """
    scales = tensor_on(images.device, factors).view(-1, 1, 1, 1)
    for pairs in torch.arange(len(images) * len(factors), device=images.device).split(max_batch):
        image, point = pairs // len(factors), pairs % len(factors)
        yield _Rows(reference + scales[point] * (images[image] - reference), image, point)


def trapezoid(steps: int) -> list[tuple[float, float]]:
    """Points and weights of the trapezoid rule with `n` intervals on [0, 1]; the weights sum to 1."""
    return [(i / steps, (0.5 if i in (0, steps) else 1.0) / steps) for i in range(steps + 1)]


def black(images: Tensor) -> Tensor:
    """Reference of the paper: zero in pixel space."""
    return images.new_zeros(1, images.shape[1], 1, 1)


def _add(total: Tensor | None, image: Tensor, rows: Tensor, count: int) -> Tensor:
    """Add each of `rows` `[S, …]` to the sum of its image `[count, …]`."""
    if total is None:
        total = rows.new_zeros(count, *rows.shape[1:])
    return total.index_add_(0, image, rows)
