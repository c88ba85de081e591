"""A classifier with closed-form perturbation curves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ltx import Classifier
from ltx.metrics.perturbation import predict
from ltx.metrics.protocol import Batch


class RedSum(nn.Module):
    """Two classes with logits (sum of the red channel, 0): `p_0 = sigmoid(sum)`; counts the images it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.largest = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        self.largest = max(self.largest, len(images))
        total = images[:, 0].sum((1, 2))
        return torch.stack([total, torch.zeros_like(total)], 1)


@pytest.fixture
def red_sum() -> Classifier:
    """`RedSum` for images of 2×5 pixels."""
    classifier = Classifier(RedSum(), num_classes=2, input_size=(2, 5))
    classifier.model.seen = classifier.model.largest = 0
    return classifier


@pytest.fixture
def red() -> Tensor:
    """The red channel 0.9, 0.8, … 0.0 as a map `[1, 1, 2, 5]`: it ranks its own pixels perfectly."""
    return (torch.arange(9, -1, -1.0) / 10).view(1, 1, 2, 5)


@pytest.fixture
def red_image(red: Tensor) -> Tensor:
    """An image `[1, 3, 2, 5]` with that red channel; green and blue are 0."""
    return torch.cat([red, torch.zeros(1, 2, 2, 5)], 1)


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """`make_batch(classifier, images, targets, **fields)`: a batch with its unmasked prediction."""

    def make(classifier: Classifier, images: Tensor, targets: Tensor, **fields: Tensor) -> Batch:
        names = [f"{i}.png" for i in range(len(images))]
        return Batch(names, images, targets, predict(classifier, images, targets), **fields)

    return make
