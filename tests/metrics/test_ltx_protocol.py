"""POS, NEG, DEL, INS, ADP and PIC of a classifier with closed-form curves."""

import pytest
import torch

from ltx.metrics.ltx_protocol import AverageDropPercentage, PercentageIncreaseConfidence
from ltx.metrics.perturbation import Prediction
from ltx.metrics.protocol import Settings
from ltx.metrics.registry import PROTOCOLS


@pytest.fixture
def measured(make_batch):
    def measure(classifier, images, maps, targets, max_batch=64):
        batch = make_batch(classifier, images, targets)
        classifier.model.seen = 0
        protocol = PROTOCOLS["ltx"](Settings(max_batch))
        metrics = protocol.collection()
        metrics.update(**protocol.measure(classifier, batch, maps, {}, lambda *_: maps))
        return {key: float(value) for key, value in metrics.compute().items()}

    return measure


def area(values):
    """Trapezoid over 0, 0.1 … 0.9, times 100."""
    return 10 * float((values[1:] + values[:-1]).sum() / 2)


def test_the_suite_in_closed_form(measured, red_sum, red_image, red):
    k = torch.arange(10.0)
    highest = torch.sigmoid((9 - k) * (10 - k) / 20)  # 0.9 + 0.8 + … without the k highest
    lowest = torch.sigmoid(4.5 - k * (k - 1) / 20)
    scores = measured(red_sum, red_image, red, torch.tensor([0]))
    assert scores["DEL"] == pytest.approx(area(highest), abs=1e-4)
    assert scores["INS"] == pytest.approx(area(lowest), abs=1e-4)
    assert scores["POS"] == pytest.approx(
        90.0
    )  # with every pixel removed the logits are equal and argmax returns the first class
    assert scores["NEG"] == pytest.approx(90.0)
    # The map is its own red channel stretched to 0…1: the kept red is Σ r²/0.9 = 2.85/0.9.
    kept, unmasked = torch.sigmoid(torch.tensor([2.85 / 0.9, 4.5]))
    assert scores["ADP"] == pytest.approx(float(100 * (unmasked - kept) / unmasked), abs=1e-3)
    assert scores["PIC"] == 0.0


def test_accuracy_counts_the_steps_at_which_the_class_is_predicted(measured, red_sum, red_image, red):
    scores = measured(
        red_sum, 0 * red_image + torch.tensor([-1.0, 0, 0]).view(1, 3, 1, 1) * red, red, torch.tensor([1])
    )
    # Class 1 wins while any (negative) red remains. With the highest pixels removed first, after nine pixels only the
    # pixel with red 0 remains, so the last step fails. With the lowest removed first, the strongest pixel remains.
    assert scores["POS"] == pytest.approx(85.0)
    assert scores["NEG"] == pytest.approx(90.0)


def test_a_better_order_scores_better_in_the_stated_direction(measured, red_sum, red_image, red):
    good = measured(red_sum, red_image, red, torch.tensor([0]))
    bad = measured(red_sum, red_image, -red, torch.tensor([0]))
    for metric in PROTOCOLS["ltx"]().metrics():
        if metric.key in ("DEL", "INS"):
            assert (good[metric.key] > bad[metric.key]) == metric.higher_is_better


def test_number_of_forward_passes(measured, red_sum, red_image, red):
    measured(red_sum, red_image, red, torch.tensor([0]))
    assert red_sum.model.seen == 9 + 9 + 1  # the batch already contains the unmasked prediction


def test_constant_maps_have_a_defined_score(measured, red_sum, red_image):
    scores = measured(red_sum, red_image, torch.zeros(1, 1, 2, 5), torch.tensor([0]))
    # Ties are removed in row-major order, here starting at the reddest pixel. As a mask the map keeps half of each
    # pixel.
    kept, unmasked = torch.sigmoid(torch.tensor([2.25, 4.5]))
    assert scores["ADP"] == pytest.approx(float(100 * (unmasked - kept) / unmasked), abs=1e-3)
    k = torch.arange(10.0)
    assert scores["DEL"] == pytest.approx(area(torch.sigmoid((9 - k) * (10 - k) / 20)), abs=1e-4)


def test_adp_and_pic_from_probabilities():
    unmasked, masked = (
        Prediction(torch.tensor(p), torch.ones(4).bool()) for p in ([0.5, 0.5, 0.8, 0.2], [0.25, 0.6, 0.8, 0])
    )
    adp, pic = AverageDropPercentage(), PercentageIncreaseConfidence()
    adp.update(unmasked=unmasked, masked=masked)
    pic.update(unmasked=unmasked, masked=masked)
    assert adp.compute() == pytest.approx((50 + 0 + 0 + 100) / 4)
    assert pic.compute() == pytest.approx(25.0)  # an equal probability does not count as an increase
