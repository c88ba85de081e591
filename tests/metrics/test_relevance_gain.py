"""The symmetric relevance gain: closed form, antisymmetry, and zero for random maps."""

from __future__ import annotations

import pytest
import torch

from ltx.metrics.protocol import Settings
from ltx.metrics.registry import PROTOCOLS

FILLS = ["black", "mean", "blur"]
GAINS = ["NEG-POS", "INS-DEL", *(f"insertion-deletion {fill}" for fill in FILLS)]


@pytest.fixture
def rows(make_batch):
    """`rows(classifier, images, maps, targets)`: the score of every image by metric key, for `ltx` and `standard`."""

    def compute(classifier, images, maps, targets):
        batch = make_batch(classifier, images, targets)
        scores = {}
        for name in ("ltx", "standard"):
            protocol = PROTOCOLS[name](Settings(fills=FILLS))
            measured = protocol.measure(classifier, batch, maps, protocol.prepare(classifier, batch), lambda *_: maps)
            for metric in protocol.metrics():
                metric.update(**metric._filter_kwargs(**measured))
                scores[metric.key] = metric.scores(metric.all_rows().double())
        return scores

    return compute


def test_closed_form(rows, red_sum, red_image, red):
    # Class 0 has probability sigmoid(red sum): highest first leaves (9-k)(10-k)/20, lowest first 4.5 - k(k-1)/20.
    k = torch.arange(11.0)
    highest, lowest = torch.sigmoid((9 - k) * (10 - k) / 20), torch.sigmoid(4.5 - k * (k - 1) / 20)
    scores = rows(red_sum, red_image, red, torch.tensor([0]))
    expected = 100 * torch.trapezoid((lowest - highest)[:10], dx=0.1)
    assert float(scores["INS-DEL"]) == pytest.approx(float(expected), abs=1e-4)
    assert float(scores["insertion-deletion black"]) == pytest.approx(
        float(torch.trapezoid(lowest - highest, dx=0.1)), abs=1e-5
    )
    # Class 1 is never predicted, class 0 always.
    assert float(scores["NEG-POS"]) == 0


def test_accuracy_gain_is_the_difference_of_the_areas(rows, red_sum, red_image, red):
    # The red channel is 0.5, 0.4, … -0.4: class 0 is predicted while the sum of the remaining pixels is not negative.
    shifted = red_image - torch.tensor([0.4, 0, 0]).view(1, 3, 1, 1)
    scores = rows(red_sum, shifted, red, torch.tensor([0]))
    assert float(scores["NEG-POS"]) > 10
    assert float(scores["NEG-POS"]) == float(scores["NEG"] - scores["POS"])


@pytest.mark.parametrize("key", GAINS)
def test_gains_are_the_differences_of_their_parts(rows, red_sum, red_image, red, key):
    scores = rows(red_sum, red_image, red, torch.tensor([0]))
    first, second = key.split(" ")[0].split("-")
    fill = key.removeprefix(f"{first}-{second}")
    torch.testing.assert_close(scores[key], scores[first + fill] - scores[second + fill])


@pytest.mark.parametrize("key", GAINS)
def test_the_reversed_map_has_the_negative_gain(rows, red_sum, red_image, red, key):
    shifted = red_image - torch.tensor([0.4, 0, 0]).view(1, 3, 1, 1)
    forward = rows(red_sum, shifted, red, torch.tensor([0]))[key]
    backward = rows(red_sum, shifted, -red, torch.tensor([0]))[key]
    torch.testing.assert_close(forward, -backward)


def test_random_maps_have_a_gain_of_about_zero(rows, red_sum, red_image):
    generator = torch.Generator().manual_seed(0)
    count = 400
    images = red_image.expand(count, -1, -1, -1) - torch.tensor([0.4, 0, 0]).view(1, 3, 1, 1)
    maps = torch.rand(count, 1, 2, 5, generator=generator)
    scores = rows(red_sum, images, maps, torch.zeros(count, dtype=torch.long))
    for key in GAINS:
        error = scores[key].std() / count**0.5
        # An image of 2×5 pixels is its own blur.
        assert scores[key].std() > 0.01 or key.endswith("blur"), "the metric does not react to the maps"
        assert abs(scores[key].mean()) <= 3 * error, key
