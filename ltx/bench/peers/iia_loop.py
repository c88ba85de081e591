"""IIA2 in a plain loop: a full forward and backward pass for every point of the double integral."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.attribution.attention import has_attention
from ltx.attribution.attribute import attribute
from ltx.attribution.feature_layers import feature_layers, upsample
from ltx.bench.attribute import naive_iia2
from ltx.bench.peers.pair import Inputs, Pair, largest_difference
from ltx.classifier.classifier import Classifier

STEPS = 5


def iia(inputs: Inputs) -> Pair:
    """IIA2 of a ViT (`variant=released`) or of a CNN, next to the plain loop over one image at a time."""
    classifier, images, targets = inputs.classifier, inputs.images, inputs.targets
    if has_attention(classifier):
        return Pair(
            lambda: attribute("iia2", classifier, images, targets, variant="released", steps=STEPS),
            lambda: naive_iia2(classifier, images, targets, STEPS),
            f"{STEPS + 1} x {STEPS + 1} points, released; the loop runs {(STEPS + 1) ** 2} full passes per image",
            largest_difference,
        )
    return Pair(
        lambda: attribute("iia2", classifier, images, targets, steps=STEPS),
        lambda: torch.cat(
            [_loop(classifier, image[None], target) for image, target in zip(images, targets, strict=True)]
        ),
        f"{STEPS + 1} x {STEPS + 1} points; the loop runs {(STEPS + 1) ** 2} full passes per image",
        largest_difference,
    )


def _loop(classifier: Classifier, image: Tensor, target: Tensor) -> Tensor:
    """IIA2 of a CNN by definition, for one image `[1, 3, H, W]`: trapezoid rule over the input and the last layer."""
    (layer,) = feature_layers(classifier)
    total = torch.zeros(())
    for i in range(STEPS + 1):
        point = i / STEPS * image
        for k in range(STEPS + 1):
            held: list[Tensor] = []

            def interpolate(
                _: object, __: object, output: Tensor, factor: float = k / STEPS, held: list[Tensor] = held
            ) -> Tensor:
                activation = output.detach()
                reference = layer.channel_minimum(activation)
                value = (reference + factor * (activation - reference)).requires_grad_()
                held += [activation - reference, value]
                return value

            handle = layer.module.register_forward_hook(interpolate)
            try:
                score = classifier(point)[0, target]
            finally:
                handle.remove()
            difference, value = held
            (gradient,) = torch.autograd.grad(score, value)
            relevance = layer.as_map(difference) * layer.as_map(value.detach()) * layer.as_map(gradient)
            weight = (0.5 if i in (0, STEPS) else 1.0) * (0.5 if k in (0, STEPS) else 1.0) / STEPS**2
            total = total.to(relevance) + weight * relevance.mean(1, keepdim=True)
    return upsample(total, image)
