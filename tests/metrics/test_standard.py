"""Normalised deletion and insertion: end points, actual fractions and several fills."""

import pytest
import torch

from ltx import InputError
from ltx.metrics.protocol import Settings
from ltx.metrics.registry import PROTOCOLS
from ltx.metrics.standard import NormalisedDeletion, NormalisedInsertion


@pytest.fixture
def measure(make_batch):
    def run(classifier, images, maps, targets, fills):
        batch = make_batch(classifier, images, targets)
        protocol = PROTOCOLS["standard"](Settings(fills=fills))
        prepared = protocol.prepare(classifier, batch)
        classifier.model.seen = 0
        metrics = protocol.collection()
        metrics.update(**protocol.measure(classifier, batch, maps, prepared, lambda *_: maps))
        return {key: float(value) for key, value in metrics.compute().items()}

    return run


def test_closed_form_over_the_removed_fraction(measure, red_sum, red_image, red):
    # 5 % of 10 pixels rounds down to whole pixels: each count appears twice, and the area equals that over tenths.
    scores = measure(red_sum, red_image, red, torch.tensor([0]), ["black"])
    k = torch.arange(11.0)
    highest = torch.sigmoid((9 - k) * (10 - k) / 20)
    lowest = torch.sigmoid(4.5 - k * (k - 1) / 20)
    assert scores["deletion black"] == pytest.approx(float(torch.trapezoid(highest, dx=0.1)), abs=1e-5)
    assert scores["insertion black"] == pytest.approx(float(torch.trapezoid(lowest, dx=0.1)), abs=1e-5)


def test_a_fill_equal_to_the_image_gives_the_unmasked_probability(measure, red_sum):
    grey = torch.full((1, 3, 2, 5), 0.2)
    scores = measure(red_sum, grey, torch.rand(1, 1, 2, 5), torch.tensor([0]), ["mean"])
    assert scores["deletion mean"] == pytest.approx(float(torch.sigmoid(torch.tensor(2.0))), abs=1e-5)
    assert scores["insertion mean"] == pytest.approx(scores["deletion mean"], abs=1e-5)


def test_the_end_points_need_no_forward_passes(measure, red_sum, red_image, red):
    measure(red_sum, red_image, red, torch.tensor([0]), ["black", "mean"])
    assert red_sum.model.seen == 2 * 2 * 9  # two fills, two orders; 0 % and 100 % are already computed


def test_rows_contain_the_curve_and_its_area(make_batch, red_sum, red_image, red):
    batch = make_batch(red_sum, red_image, torch.tensor([0]))
    protocol = PROTOCOLS["standard"](Settings(fills=["black"]))
    measured = protocol.measure(red_sum, batch, red, protocol.prepare(red_sum, batch), lambda *_: red)
    for metric in (NormalisedDeletion("black"), NormalisedInsertion("black")):
        metric.update(**measured)
        curve = metric.curve(metric.all_rows())[0]
        assert curve.shape == (21,)
        assert curve[0] == pytest.approx(float(torch.sigmoid(torch.tensor(4.5))))
        assert curve[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("fills", [["pink"], []])
def test_invalid_fills_raise_an_error(fills):
    with pytest.raises(InputError, match="fills"):
        PROTOCOLS["standard"](Settings(fills=fills))
