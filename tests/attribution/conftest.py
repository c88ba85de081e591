"""Small classifiers and images for them."""

import pytest
import torch

from ltx import Classifier
from tests.support.toy_models import MEAN, STD, ThreeStages, seeded, vit


@pytest.fixture
def cnn() -> Classifier:
    return Classifier(seeded(ThreeStages()), input_size=16, mean=MEAN, std=STD)


@pytest.fixture
def transformer() -> Classifier:
    return Classifier(vit(), input_size=(16, 24), mean=MEAN, std=STD)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def wide_images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(3))
