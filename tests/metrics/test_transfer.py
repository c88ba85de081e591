"""The transfer check uses the second classifier at its own input size."""

import pytest
import torch
from torch import nn

from ltx import Classifier, InputError
from ltx.metrics.protocol import Settings
from ltx.metrics.registry import PROTOCOLS


class BlueSum(nn.Module):
    def forward(self, images):
        total = images[:, 2].sum((1, 2))
        return torch.stack([total, torch.zeros_like(total)], 1)


@pytest.fixture
def measure(make_batch):
    def run(first, second, images, maps):
        protocol = PROTOCOLS["transfer"](Settings(second=second))
        batch = make_batch(first, images, torch.tensor([0]))
        metrics = protocol.collection()
        metrics.update(**protocol.measure(first, batch, maps, protocol.prepare(first, batch), lambda *_: maps))
        return {key: float(value) for key, value in metrics.compute().items()}

    return run


def test_evidence_of_the_first_classifier_alone_does_not_transfer(measure, red_sum, red_image, red):
    same = measure(red_sum, Classifier(type(red_sum.model)(), num_classes=2, input_size=(2, 5)), red_image, red)
    other = measure(red_sum, Classifier(BlueSum(), num_classes=2, input_size=(2, 5)), red_image, red)
    assert same["KEPT2"] == pytest.approx(100 * float(torch.sigmoid(torch.tensor(2.85 / 0.9))), abs=1e-3)
    k = torch.arange(10.0)
    lowest = torch.sigmoid(4.5 - k * (k - 1) / 20)
    assert same["INS2"] == pytest.approx(100 * float(torch.trapezoid(lowest, dx=0.1)), abs=1e-3)
    assert other["KEPT2"] == pytest.approx(50.0)  # the image contains no blue
    assert other["INS2"] == pytest.approx(45.0)


def test_images_and_maps_are_resized_for_the_second_classifier(measure, red_sum, red_image, red):
    second = Classifier(type(red_sum.model)(), num_classes=2, input_size=(4, 10))
    assert measure(red_sum, second, red_image, red)["KEPT2"] > 99.9  # four times the pixels, four times the sum


def test_a_missing_or_different_second_classifier_raises_an_error(measure, red_sum, red_image, red):
    with pytest.raises(InputError, match=r"second\.name"):
        PROTOCOLS["transfer"](Settings())
    three = Classifier(nn.Sequential(BlueSum(), nn.ConstantPad1d((0, 1), 0.0)), input_size=(2, 5))
    with pytest.raises(InputError, match="same classes"):
        measure(red_sum, three, red_image, red)
