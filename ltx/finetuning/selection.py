"""The papers' selection rule: the reported metric selects the mask."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx.explainers.mask_network import MaskNetwork
from ltx.metrics.perturbation import Order, Prediction, curves, read_logits

FRACTIONS = tuple(step / 10 for step in range(10))


class Selection:
    """Keeps the best mask of each image over the steps of finetuning, as the released LTX code does.

    An image is finished, and its mask fixed, at a positive AUC below 6 or a negative AUC above 89 (`ltx` protocol).

    Args:
        rule: `positive`, `negative`, `deletion` or `insertion`: the AUC, on the image itself, that selects the mask.
        explainer: the mask network, for its classifier.
        images: `[B, 3, H, W]` in [0, 1].
        targets: target classes, `[B]`.
        unmasked_logits: logits of the unmasked forward pass, `[B, K]`.

    Attributes:
        masks: the best masks so far, `[B, 1, H, W]`.
    """

    def __init__(
        self, rule: str, explainer: MaskNetwork, images: Tensor, targets: Tensor, unmasked_logits: Tensor
    ) -> None:
        self.rule, self.explainer, self.images, self.targets = rule, explainer, images, targets
        self.unmasked: Prediction = read_logits(explainer.classifier, unmasked_logits, targets)
        self.highest_first = rule in ("positive", "deletion")
        self.best = torch.full((len(images),), float("inf"), device=images.device)
        self.done = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.masks = torch.zeros_like(images[:, :1])

    def update(self, masks: Tensor) -> None:
        """Keep those of the masks `[B, 1, H, W]` that are better than the best so far."""
        order: Order = "highest" if self.highest_first else "lowest"
        curve = curves(
            self.explainer.classifier,
            self.images,
            masks,
            self.targets,
            FRACTIONS,
            torch.zeros_like(self.images),
            orders=(order,),
            unmasked=self.unmasked,
        )[order]
        heights = curve.correct.float() if self.rule in ("positive", "negative") else curve.probability
        area = 100 * torch.trapezoid(heights, dx=0.1, dim=1)
        value = area if self.highest_first else -area
        better = (value < self.best) & ~self.done
        self.masks = torch.where(better.view(-1, 1, 1, 1), masks, self.masks)
        self.best = torch.where(better, value, self.best)
        self.done |= (self.rule == "positive") & (self.best < 6) | (self.rule == "negative") & (self.best < -89)

    @property
    def finished(self) -> bool:
        """Whether all images are finished; waits for a GPU."""
        return bool(self.done.all())
