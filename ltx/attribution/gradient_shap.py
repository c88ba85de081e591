"""Gradient SHAP, expected gradients (Lundberg & Lee, NeurIPS 2017; Erion et al., 2021).

Not captum's: its draws come from NumPy's global state and differ with the batch, so that neither a seed nor a smaller
batch gives the same map again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.attribution.target import explained_classes
from ltx.classifier.classifier import Classifier
from ltx.masking.fill import Fill
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
    """Mean over draws of `(x - b) ∘ ∂f_y/∂x (b + a (x - b))`, `a` uniform in [0, 1], summed over colours. Signed.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: classes `[B]`; None = the predicted ones.
        samples: draws; each is shared by all images.
        noise: deviation of normal noise that is added to the image in each draw.
        baseline: what `b` is, a name of `ltx.Fill`: `black`, `mean`, `blur`, `noise`; `random` = each draw one of them.
        seed: of the draws.
        max_batch: rows of one forward pass.

    Returns:
        `[B, 1, H, W]`.

    Raises:
        InputError: an unknown baseline, or no samples.
    """
    if samples < 1:
        raise InputError(f"samples={samples}; give a positive number")
    chosen = explained_classes(classifier, images, targets, max_batch)
    generator, fill = seeded(seed), Fill(baseline)
    total = torch.zeros_like(images[:, :1], dtype=torch.float32)
    chunk = max(1, max_batch // len(images))
    for begin in range(0, samples, chunk):
        points, differences = [], []
        for _ in range(min(chunk, samples - begin)):
            shake = noise * torch.randn(images.shape[1:], generator=generator).to(images) if noise else 0.0
            background = fill(images, generator, shared=True)
            difference = images + shake - background
            points.append(background + torch.rand((), generator=generator).to(images) * difference)
            differences.append(difference)
        rows = torch.cat(points).requires_grad_()
        with torch.enable_grad():
            score = classifier(rows).gather(1, chosen.repeat(len(points))[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, rows)
        relevance = (gradient * torch.cat(differences)).float().sum(1, keepdim=True)
        total += relevance.unflatten(0, (len(points), len(images))).sum(0)
    return total / samples
