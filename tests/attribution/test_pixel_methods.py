"""Integrated Gradients, Gradient SHAP, Occlusion, RISE."""

import pytest
import torch
from torch import nn

from ltx import Classifier, InputError
from ltx.attribution.attribute import attribute
from ltx.attribution.rise import _mask
from tests.support.toy_models import ThreeStages, seeded


@pytest.fixture
def linear() -> Classifier:
    torch.manual_seed(4)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)), input_size=16)


def contributions(linear: Classifier, images: torch.Tensor, target: int) -> torch.Tensor:
    return (linear.model[1].weight[target].view(3, 16, 16) * images).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("method", "options"), [("integrated_gradients", {"steps": 3}), ("gradient_shap", {"baseline": "black"})]
)
def test_a_linear_score_is_decomposed_into_its_terms(linear, images, method, options):
    maps = attribute(method, linear, images, 2, **options)
    expected = contributions(linear, images, 2)
    if method == "gradient_shap":
        assert maps.shape == expected.shape
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_integrated_gradients_are_complete(images):
    """The sum over pixels is f(x) - f(black), within 0.5 % with 1,000 nodes because the network has kinks."""
    classifier = Classifier(seeded(ThreeStages(), 2.0), input_size=16)
    maps = attribute("integrated_gradients", classifier, images, 1, steps=1000)
    difference = (classifier(images) - classifier(torch.zeros_like(images)))[:, 1]
    torch.testing.assert_close(maps.sum((1, 2, 3)), difference, rtol=5e-3, atol=1e-3)


def test_gradient_shap_is_complete_in_expectation(images):
    classifier = Classifier(seeded(ThreeStages(), 2.0), input_size=16)
    maps = attribute("gradient_shap", classifier, images, 1, baseline="black", samples=2000)
    difference = (classifier(images) - classifier(torch.zeros_like(images)))[:, 1]
    torch.testing.assert_close(maps.sum((1, 2, 3)), difference, rtol=0.1, atol=0.02)


def test_occlusion_of_a_linear_score(linear, images):
    """If the squares tile the image, every pixel receives the sum over its square."""
    maps = attribute("occlusion", linear, images, 2, window=4, stride=4)
    blocks = contributions(linear, images, 2).unfold(2, 4, 4).unfold(3, 4, 4).sum((4, 5))
    expected = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_an_occluding_square_covers_all_channels(channels):
    torch.manual_seed(4)
    classifier = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, 2)), input_size=8, channels=channels, head_layer="1"
    )
    images = torch.rand(2, channels, 8, 8)
    maps = attribute("occlusion", classifier, images, 1, window=4, stride=4)
    terms = classifier.model[1].weight[1].view(channels, 8, 8) * images
    squares = terms.view(2, channels, 2, 4, 2, 4).sum((1, 3, 5))
    expected = squares.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_rise_equals_its_sum_over_masks(linear, images):
    maps = attribute("rise", linear, images, 2, masks=9, cells=3, keep=0.4, seed=5, max_batch=4)
    generator = torch.Generator().manual_seed(5)
    expected = torch.zeros(3, 1, 16, 16)
    for _ in range(9):
        mask = _mask(torch.Size((16, 16)), 3, 0.4, generator)
        expected += linear(images * mask).softmax(1)[:, 2].view(3, 1, 1, 1) * mask / (9 * 0.4)
    torch.testing.assert_close(maps, expected)


def test_rise_upsamples_cells_as_in_the_paper():
    """2 x 2 cells, enlarged to 3 cells a side of 8 pixels: two neighbours blend over 12 pixels, not over 8."""
    masks = [_mask(torch.Size((16, 16)), 2, 0.5, torch.Generator().manual_seed(seed))[0] for seed in range(40)]
    slopes = torch.stack([mask.diff(dim=1).abs().max() for mask in masks])
    assert float(slopes.max()) == pytest.approx(1 / 12, abs=1e-4)


def test_rise_masks_keep_the_given_share_and_are_smooth():
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([_mask(torch.Size((20, 30)), 5, 0.3, generator) for _ in range(400)])
    assert masks.shape == (400, 1, 20, 30)
    assert masks.mean().item() == pytest.approx(0.3, abs=0.02)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert masks.diff(dim=3).abs().max() < 0.5


@pytest.mark.parametrize("method", ["rise", "gradient_shap"])
def test_equal_seeds_give_equal_bytes(cnn, images, method):
    few = {"rise": {"masks": 20}, "gradient_shap": {"samples": 5}}[method]
    first, again, other = (attribute(method, cnn, images, 1, seed=seed, **few) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        ("occlusion", {"window": 99}, "window=99"),
        ("occlusion", {"window": 4, "stride": 5}, "stride=5"),
        ("rise", {"keep": 1.0}, "keep=1.0"),
        ("gradient_shap", {"samples": 0}, "samples=0"),
        ("gradient_shap", {"baseline": "pink"}, "pink"),
        ("gradient_shap", {"seed": 2**64}, "seed=1.*64 bits"),
        ("rise", {"seed": -(2**64)}, "seed=-1.*64 bits"),
        ("inr", {"seed": 2**64}, "seed=1.*64 bits"),
    ],
)
def test_invalid_options_are_named(cnn, images, method, options, text):
    with pytest.raises(InputError, match=text):
        attribute(method, cnn, images, **options)
