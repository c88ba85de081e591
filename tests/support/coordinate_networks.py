"""Small coordinate networks, and a classifier whose decisive pixels are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltx import Classifier
from ltx.explainers.inr import INRExplainer
from ltx.explainers.settings import ExplainerConfig


class Rectangles(nn.Module):
    """Logit of class 0: the contrast within some rectangles (top, left, bottom, right); of class 1: a constant."""

    num_classes = 2

    def __init__(self, *boxes: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.boxes = boxes

    def forward(self, x: Tensor) -> Tensor:
        inside = [
            (x[:, :, top:bottom, left:right] - 0.5).square().sum((1, 2, 3)) for top, left, bottom, right in self.boxes
        ]
        evidence = torch.stack(inside).sum(0) / 6
        return torch.stack([evidence, torch.ones_like(evidence)], 1)


def checkered_images(count: int, side: int = 32) -> Tensor:
    """Random black and white pixels, whose contrast a blur removes evenly."""
    return (torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def fitted_inr(classifier: Classifier, seed: int = 0, **settings: object) -> INRExplainer:
    """A fitted_inr network without image features."""
    torch.manual_seed(seed)
    sizes: dict[str, object] = {"trunk": "none", "width": 64, "depth": 3, "points": 32}
    return INRExplainer(classifier, **(sizes | settings)).eval()  # type: ignore[arg-type]


def amortised_inr(**settings: object) -> INRExplainer:
    """A fitted_inr amortised_inr network of a classifier with random weights."""
    torch.manual_seed(0)
    classifier = Classifier("resnet18", weights="random", num_classes=5, input_size=64)
    network = ExplainerConfig(name="inr", width=32, depth=3, points=16, **settings).build(classifier)  # type: ignore[arg-type]
    assert isinstance(network, INRExplainer)
    return network.eval()
