"""Gradient SHAP, expected gradients (Lundberg & Lee, NeurIPS 2017; Erion et al., 2021).

This does not use captum's implementation, whose maps cannot be reproduced from a seed: it draws from NumPy's global
random state, and its draws depend on the batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.masking.fill import Fill
from ltx.runtime.devices import send
from ltx.runtime.errors import InputError
from ltx.runtime.seeds import seeded


def gradient_shap(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor | None = None,
    *,
    samples: int = 50,
    noise: float = 0.0,
    baseline: str = "random",
    seed: int = 0,
    max_batch: int = 64,
) -> Tensor:
    """Mean over samples of `(x - b) ∘ ∂f_y/∂x (b + a (x - b))`, `a` uniform in [0, 1], summed over channels. Signed.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
        samples: number of samples; all images share each sample's baseline and `a`.
        noise: standard deviation of the Gaussian noise added to the image in each sample.
        baseline: the baseline `b`, a name of `ltx.Fill`: `black`, `mean`, `blur` or `noise`; `random` = one of them per
            sample.
        seed: random seed.
        max_batch: maximum batch size of a forward pass.

    Returns:
        `[B, 1, H, W]`.

    Raises:
        InputError: unknown baseline, or `samples` is not positive.
    """
    if samples < 1:
        raise InputError(f"samples={samples}; give a positive number")
    classes = explained_classes(classifier, images, targets, max_batch)
    generator, fill = seeded(seed), Fill(baseline)
    total = torch.zeros_like(images[:, :1], dtype=torch.float32)
    chunk = max(1, max_batch // len(images))
    for begin in range(0, samples, chunk):
        points, differences = [], []
        for _ in range(min(chunk, samples - begin)):
            perturbation = noise * send(torch.randn(images.shape[1:], generator=generator), images) if noise else 0.0
            reference = fill(images, generator, shared=True)
            difference = images + perturbation - reference
            points.append(reference + send(torch.rand((), generator=generator), images) * difference)
            differences.append(difference)
        rows = torch.cat(points).requires_grad_()
        with torch.enable_grad():
            score = classifier(rows).gather(1, classes.repeat(len(points))[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, rows)
        relevance = (gradient * torch.cat(differences)).float().sum(1, keepdim=True)
        total += relevance.unflatten(0, (len(points), len(images))).sum(0)
    return total / samples
