"""Class activation maps of pytorch-grad-cam, and Integrated Gradients and occlusion of captum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltx.attribution.attribute import attribute
from ltx.attribution.feature_layers import feature_layers
from ltx.bench.peers.pair import Inputs, Pair, correlation, largest_difference


def cam(ours: str, theirs: str) -> Callable[[Inputs], Pair]:
    """Our method `ours` next to the class `theirs` of pytorch-grad-cam, on the same layer."""

    def build(inputs: Inputs) -> Pair:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        classifier, images = inputs.classifier, inputs.images
        (layer,) = feature_layers(classifier)
        reshape = layer.as_map if layer.channel_dim != 1 else None
        targets = [ClassifierOutputTarget(int(target)) for target in inputs.targets]

        def run_theirs() -> Tensor:
            with getattr(pytorch_grad_cam, theirs)(classifier.model, [layer.module], reshape) as method:
                normalised = ((images - classifier.normalisation[0]) / classifier.normalisation[1]).requires_grad_()
                return torch.from_numpy(np.ascontiguousarray(method(normalised, targets)))[:, None]

        return Pair(
            lambda: attribute(ours, classifier, images, inputs.targets),
            run_theirs,
            f"maps of the same layer ({layer.name}), {len(images)} images in one batch; theirs are scaled to [0, 1]",
            correlation,
        )

    return build


def integrated_gradients(inputs: Inputs) -> Pair:
    """Our `integrated_gradients`, which calls captum in chunks, next to captum itself."""
    from captum.attr import IntegratedGradients

    classifier, images, steps = inputs.classifier, inputs.images, 20

    def run_theirs() -> Tensor:
        maps: Tensor = IntegratedGradients(classifier).attribute(
            images, baselines=0.0, target=inputs.targets, n_steps=steps
        )
        return maps.detach().sum(1, keepdim=True)

    return Pair(
        lambda: attribute("integrated_gradients", classifier, images, inputs.targets, steps=steps),
        run_theirs,
        f"{steps} points of the path; ours calls captum with chunks that fit the caches",
        largest_difference,
    )


def occlusion(inputs: Inputs) -> Pair:
    """Our `occlusion`, which calls captum in batches, next to captum with its defaults."""
    from captum.attr import Occlusion

    classifier, images = inputs.classifier, inputs.images
    options: dict[str, Any] = {"sliding_window_shapes": (3, 64, 64), "strides": (3, 32, 32), "baselines": 0.0}

    @torch.no_grad()
    def run_theirs() -> Tensor:
        maps: Tensor = Occlusion(classifier).attribute(images, target=inputs.targets, **options)
        return maps[:, :1]

    return Pair(
        lambda: attribute("occlusion", classifier, images, inputs.targets, window=64, stride=32),
        run_theirs,
        "squares of 64 pixels, 32 apart; ours evaluates several squares in one forward pass",
        largest_difference,
    )
