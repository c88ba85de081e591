"""DIX, Deep Integrated Explanations (Barkan et al., CIKM 2023).

DIX integrates over paths of inner representations only, not of the input, and combines several layers.

- Feature maps, `n = 4` (5 points), as computed by the authors' code: `H1 = Σ relu(∇) ∘ relu(A)` for the last layer,
  where reference and activation coincide. For the layers before it, `H = Σ relu(∇ ∘ relu(v) ∘ ‖(v - r)/n‖)`, where `r`
  is the minimum over channels at each position and the norm is over the whole tensor. All maps are resized
  (trilinearly over channels and positions) to the number of channels of the second and the grid of the third layer from
  the end. `DIX2 = H2∘H1 + H1`, `DIX3 = (H2∘H3∘H1 + H1)∘H1`; then sum over channels, bicubic upsampling, min-max
  normalisation.
- Vision transformers, `n = 10` (11 points), `r = 0`: Gradient Rollout with the attention of one block interpolated,
  `relu(A ∘ ∇A)` averaged over points and heads. The maps of the last block and of the block before it (DIX3: of the two
  blocks before it) are added. `variant="paper"` interpolates the attention of the block itself. `variant="released"` is
  the authors' code, which puts the interpolated attention of the *last* block into each of these blocks.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.attribution.attention import attention_chain, has_attention
from ltx.attribution.attention_path import TOLERANCE, path_gradients
from ltx.attribution.feature_layers import FeatureLayer, activation_and_gradient, rescaled, select_layers, upsample
from ltx.attribution.partial_forward import gradient_after, record
from ltx.attribution.rollout import patch_map, roll_out
from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.runtime.devices import tensor_on
from ltx.runtime.errors import InputError

Variant = Literal["paper", "released"]


def dix(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    depth: int = 2,
    variant: Variant = "paper",
    steps: int | None = None,
    layers: list[str] | None = None,
    tolerance: float = TOLERANCE,
    max_batch: int = 64,
) -> Tensor:
    """DIX2 (`depth=2`) or DIX3 (`depth=3`).

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        depth: 2 or 3, see above.
        variant: `paper` or `released`, see above; both are the same for feature maps.
        steps: number `n` of intervals (`n + 1` points); None = 4 for feature maps, 10 for attention.
        layers: three feature layers, shallow to deep; None = the last three of the model. Not for vision
            transformers.
        tolerance: for vision transformers, see `ltx.attribution.attention_path`; 0 = exact.
        max_batch: maximum batch size of a forward pass (path points x images); it does not change the result.

    Returns:
        Non-negative maps `[B, 1, H, W]`.

    Raises:
        InputError: unknown variant, or the model does not have these layers or has too few blocks or feature maps.
    """
    if depth not in (2, 3):
        raise InputError(f"depth={depth} is not a valid depth of DIX; allowed: 2, 3")
    if variant not in ("paper", "released"):
        raise InputError(f"variant={variant!r} is unknown; allowed: paper, released")
    if steps is not None and steps < 1:
        raise InputError(f"steps={steps}; give a positive number of intervals")
    classes = explained_classes(classifier, images, targets, max_batch)
    if not has_attention(classifier):
        selected = select_layers(classifier, layers, 3)
        return _features(classifier, images, classes, selected, depth, steps or 4, max_batch)
    if layers is not None:
        raise InputError(f"layers={layers}: DIX uses the last blocks of {classifier.name}; omit layers")
    if len(attention_chain(classifier)) < depth:
        raise InputError(f"{classifier.name} has {len(attention_chain(classifier))} blocks, {depth} are needed")
    released = variant == "released"
    rows = [
        _tokens(classifier, x, y, depth, steps or 10, released, tolerance, max_batch)
        for x, y in zip(images.split(max_batch), classes.split(max_batch), strict=True)
    ]
    return patch_map(classifier, torch.cat(rows), images)


def _tokens(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    depth: int,
    steps: int,
    released: bool,
    tolerance: float,
    max_batch: int,
) -> Tensor:
    chain = attention_chain(classifier)
    last = len(chain) - 1
    points = [(i / steps,) for i in range(steps + 1)]
    attention: Tensor | None = None
    if released:
        with torch.no_grad(), chain.captured() as matrices:
            classifier(images)
        attention = matrices[last]
    total: Tensor | None = None
    for block in range(last, last - depth, -1):
        path = path_gradients(classifier, images, targets, [block], points, max_batch, tolerance, attention)
        row = roll_out(path.mean(), path.start)
        total = row if total is None else total + row
    assert total is not None
    return total


def _features(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    layers: list[FeatureLayer],
    depth: int,
    steps: int,
    max_batch: int,
) -> Tensor:
    shape = (layers[1].channels, *layers[0].grid)
    maps = []
    for x, y in zip(images.split(max_batch), targets.split(max_batch), strict=True):
        h = [_last_layer(classifier, layers[-1], x, y, steps)]
        h += [_earlier_layer(classifier, layer, x, y, steps, max_batch) for layer in layers[-2 : -depth - 1 : -1]]
        # Products of up to four large activations overflow float32.
        h = [F.interpolate(each.double().unsqueeze(1), size=shape, mode="trilinear").squeeze(1) for each in h]
        combined = h[1] * h[0] + h[0] if depth == 2 else (h[1] * h[2] * h[0] + h[0]) * h[0]
        maps.append(combined.sum(1, keepdim=True))
    return rescaled(upsample(torch.cat(maps), images, "bicubic"))


def _last_layer(classifier: Classifier, layer: FeatureLayer, images: Tensor, targets: Tensor, steps: int) -> Tensor:
    activation, gradient = activation_and_gradient(classifier, layer, images, targets)
    return (steps + 1) * gradient.relu() * activation.relu()  # every point of this path is the activation itself


def _earlier_layer(
    classifier: Classifier, layer: FeatureLayer, images: Tensor, targets: Tensor, steps: int, max_batch: int
) -> Tensor:
    with torch.no_grad():
        prefix = record(classifier.model, layer.module, lambda: classifier(images), layer.position)
    activation = prefix.value.detach()
    reference = activation.amin(layer.channel_dim, keepdim=True)
    total = torch.zeros_like(layer.as_map(activation), dtype=torch.float32)
    chunk = max(1, max_batch // len(images))
    for begin in range(1, steps + 1, chunk):  # at point 0 the norm is 0
        factors = tensor_on(activation.device, [i / steps for i in range(begin, min(begin + chunk, steps + 1))])
        difference = factors.to(activation.dtype).view(-1, *[1] * activation.ndim) * (activation - reference)
        value = (reference + difference).flatten(0, 1)
        count = len(factors)
        gradient = gradient_after(classifier, prefix, value, targets.repeat(count))
        norm = torch.linalg.vector_norm(difference.float().flatten(2) / steps, dim=2).flatten().view(-1, 1, 1, 1)
        relevance = layer.as_map(gradient).float() * layer.as_map(value).float().relu() * norm
        total += relevance.relu().unflatten(0, (count, len(images))).sum(0)
    return total
