"""Perturbation curves of a classifier with a closed form."""

import pytest
import torch
from torch import nn

from ltx import Classifier, InputError
from ltx.metrics.perturbation import counts_removed, curves, min_max, predict, rank_pixels

TENTHS = [i / 10 for i in range(10)]


@pytest.fixture
def toy(red_sum, red_image, red):
    return red_sum, red_image, red


def test_curves_of_a_linear_model_in_closed_form(toy):
    classifier, images, maps = toy
    targets = torch.tensor([0])
    result = curves(classifier, images, maps, targets, TENTHS, torch.zeros_like(images))
    # After k pixels the red sum is (9-k)(10-k)/20 with the highest removed first, and 4.5 - k(k-1)/20 with the lowest.
    k = torch.arange(10.0)
    torch.testing.assert_close(result["highest"].probability[0], torch.sigmoid((9 - k) * (10 - k) / 20))
    torch.testing.assert_close(result["lowest"].probability[0], torch.sigmoid(4.5 - k * (k - 1) / 20))
    # With no red left both logits are 0 and argmax returns the first class.
    assert result["highest"].correct.all()
    other = curves(classifier, images, maps, torch.tensor([1]), TENTHS, torch.zeros_like(images))
    assert not other["highest"].correct.any()
    torch.testing.assert_close(other["highest"].probability, 1 - result["highest"].probability)


def test_number_of_forward_passes(toy):
    classifier, images, maps = toy
    targets = torch.tensor([0])
    curves(classifier, images, maps, targets, TENTHS, torch.zeros_like(images))
    assert classifier.model.seen == 9 + 9 + 1
    unmasked = predict(classifier, images, targets)
    removed = predict(classifier, torch.zeros_like(images), targets)
    classifier.model.seen = 0
    eleven = [i / 10 for i in range(11)]
    curves(classifier, images, maps, targets, eleven, torch.zeros_like(images), unmasked=unmasked, removed=removed)
    assert classifier.model.seen == 9 + 9


def test_the_background_replaces_removed_pixels(toy):
    classifier, images, maps = toy
    background = torch.full_like(images, 0.25)
    result = curves(classifier, images, maps, torch.tensor([0]), [0.2, 1.0], background, orders=["highest"])
    torch.testing.assert_close(result["highest"].probability[0], torch.sigmoid(torch.tensor([2.8 + 0.5, 2.5])))


def test_results_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)), num_classes=4, input_size=8)
    images, maps, targets = torch.rand(5, 3, 8, 8), torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0])
    background = images.mean((2, 3), keepdim=True).expand_as(images)
    whole = curves(classifier, images, maps, targets, TENTHS, background, max_batch=1000)
    for max_batch in (1, 7, 64):
        again = curves(classifier, images, maps, targets, TENTHS, background, max_batch=max_batch)
        for order, expected in whole.items():
            torch.testing.assert_close(again[order].probability, expected.probability)
            assert torch.equal(again[order].correct, expected.correct)
    for i in range(5):
        one = slice(i, i + 1)
        alone = curves(classifier, images[one], maps[one], targets[one], TENTHS, background[one])
        torch.testing.assert_close(alone["lowest"].probability, whole["lowest"].probability[one])


def test_max_batch_bounds_every_forward_pass(toy):
    classifier, images, maps = toy
    curves(classifier, images, maps, torch.tensor([0]), TENTHS, torch.zeros_like(images), max_batch=4)
    assert classifier.model.largest == 4


def test_ties_are_broken_in_row_major_order():
    maps = torch.tensor([[[[1.0, 2.0], [2.0, 1.0]]], [[[0.5, 0.5], [0.5, 0.5]]]])
    assert rank_pixels(maps).tolist() == [[2, 0, 1, 3], [0, 1, 2, 3]]


def test_lowest_first_is_the_reversed_order(toy):
    classifier, images, _ = toy
    constant = torch.zeros(1, 1, 2, 5)
    result = curves(classifier, images, constant, torch.tensor([0]), [0.5], torch.zeros_like(images))
    torch.testing.assert_close(result["highest"].probability, torch.sigmoid(torch.tensor([[1.0]])))
    torch.testing.assert_close(result["lowest"].probability, torch.sigmoid(torch.tensor([[3.5]])))


def test_nan_maps_raise_an_error_with_the_image_name(toy):
    classifier, images, maps = toy
    maps = maps.clone()
    maps[0, 0, 1, 1] = float("nan")
    with pytest.raises(InputError, match=r"cat\.png"):
        curves(classifier, images, maps, torch.tensor([0]), TENTHS, torch.zeros_like(images), names=["cat.png"])


@pytest.mark.parametrize("bad", [{"max_batch": 0}, {"fractions": [1.5]}, {"maps": torch.zeros(1, 1, 3, 3)}])
def test_invalid_input_raises_an_error(toy, bad):
    classifier, images, maps = toy
    arguments = {"maps": maps, "fractions": TENTHS, "background": torch.zeros_like(images)} | bad
    with pytest.raises(InputError):
        curves(classifier, images, targets=torch.tensor([0]), **arguments)


def test_counts_are_rounded_down_except_for_floating_point_error():
    assert counts_removed([0.29, 0.1, 1.0], 100) == [29, 10, 100]
    assert counts_removed([0.1], 50176) == [5017]


def test_min_max_of_a_constant_map_is_one_half():
    maps = torch.stack([torch.full((1, 2, 2), 7.0), torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])])
    assert min_max(maps).tolist() == [[[[0.5, 0.5], [0.5, 0.5]]], [[[0.0, 0.25], [0.5, 1.0]]]]


def test_sigmoid_heads_are_correct_from_one_half(red_sum):
    classifier = Classifier(red_sum.model, num_classes=2, input_size=(2, 5), head="sigmoid")
    images = torch.zeros(2, 3, 2, 5)
    images[1, 0, 0, 0] = 1.0
    result = predict(classifier, images, torch.tensor([0, 1]))
    torch.testing.assert_close(result.probability, torch.tensor([0.5, 0.5]))
    assert result.correct.tolist() == [True, True]
