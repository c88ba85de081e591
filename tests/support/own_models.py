"""A user's own module, as `classifier.name=tests.support.own_models:build` builds it."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Four blocks of stride 2 with 32 to 256 channels, one of stride 1, average pooling, and a linear layer.

    For pixels in [0, 1]; it normalises them itself.
    """

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in itertools.pairwise(widths)
        )
        last = widths[-1]
        self.mixing = nn.Sequential(nn.Conv2d(last, last, 3, 1, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU())
        self.head = nn.Linear(last, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = images * 2 - 1
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.mixing(x).mean((2, 3)))
        return logits


def build(classes: int = 10, width: int = 32, seed: int = 0) -> SmallCNN:
    """An untrained `SmallCNN`, the same for each seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallCNN(classes, width)
