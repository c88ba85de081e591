"""Extremal perturbations: the formula of the smooth maximum, areas of the visible mask, and a known rectangle."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ltx import Classifier, InputError, attribute
from ltx.attribution.extremal_perturbation import (
    SmoothMaximum,
    blended,
    blur_pyramid,
    extremal_masks,
    extremal_perturbation,
)


class Inside(nn.Module):
    """The logit of class 0 is the contrast within one rectangle."""

    num_classes = 2

    def forward(self, x: Tensor) -> Tensor:
        evidence = (x[:, :, 8:24, 8:20] - 0.5).square().sum((1, 2, 3)) / 6
        return torch.stack([evidence, torch.ones_like(evidence)], 1)


def test_smooth_maximum_equals_its_formula():
    smooth = SmoothMaximum(torch.zeros(1, 3, 224, 224))
    values = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert smooth.grid == (32, 32)
    mask = smooth(values)
    assert mask.shape == (2, 1, 224, 224)
    for y, x in ((0, 0), (100, 57), (223, 10), (111, 223)):
        terms = []
        for j in range(y // 7 - 4, y // 7 + 5):
            for i in range(x // 7 - 4, x // 7 + 5):
                z = math.hypot(y - (7 * j + 3), x - (7 * i + 3)) / 21
                inside = 0 <= j < 32 and 0 <= i < 32
                terms.append(float(values[1, 0, j, i]) * math.exp(-2 * max(z - 0.5, 0) ** 2) if inside else 0.0)
        weighted = torch.tensor(terms)
        assert float(mask[1, 0, y, x]) == pytest.approx(float((weighted * (20 * weighted).softmax(0)).sum()), abs=1e-5)


def test_gradient_of_the_smooth_maximum():
    smooth = SmoothMaximum(torch.zeros(1, 3, 12, 17, dtype=torch.double))
    values = torch.rand(2, 1, *smooth.grid, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(smooth, values, fast_mode=True)


def test_blend_interpolates_between_levels():
    images = torch.rand(1, 3, 32, 32)
    pyramid = blur_pyramid(images)
    assert pyramid.shape == (1, 8, 3, 32, 32)
    assert torch.equal(blended(pyramid, torch.ones(1, 1, 32, 32)), images)
    assert torch.equal(blended(pyramid, torch.zeros(1, 1, 32, 32)), pyramid[:, 0])
    half = blended(pyramid, torch.full((1, 1, 32, 32), 2.5 / 7))
    assert torch.allclose(half, (pyramid[:, 2] + pyramid[:, 3]) / 2, atol=1e-6)
    assert pyramid[0, 0].std() < pyramid[0, 4].std() < images.std()


@pytest.mark.slow
def test_visible_area_is_the_requested_one_and_the_rectangle_is_found():
    classifier = Classifier(Inside(), input_size=32)
    images = (torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    area = 16 * 12 / 32**2
    targets = torch.zeros(1, dtype=torch.long)
    masks = extremal_masks(classifier, images, targets, (area, 0.5), steps=800)
    assert masks.shape == (1, 2, 32, 32)
    assert torch.allclose(masks.mean((2, 3)), torch.tensor([area, 0.5]).expand(1, 2), atol=0.05)
    kept = masks[:, 0] > 0.5
    truth = torch.zeros(32, 32, dtype=torch.bool)
    truth[8:24, 8:20] = True
    # The image is flipped every other step, so that the flipped rectangle is rewarded as often.
    either = truth | truth.flip(1)
    assert float((kept & either).sum() / kept.sum()) > 0.75, "a quarter by chance"
    maps = extremal_perturbation(classifier, images, targets, areas=(area, 0.5), steps=20)
    again = extremal_masks(classifier, images, targets, (area, 0.5), steps=20)
    assert torch.allclose(maps, again.sum(1, keepdim=True))


@pytest.mark.parametrize(
    "options", [{"areas": (0.1, 1.0)}, {"areas": ()}, {"areas": ["a"]}, {"areas": "0.1"}, {"areas": 2}, {"steps": 0}]
)
def test_invalid_options(options: dict[str, object]):
    with pytest.raises(InputError, match="give areas between 0 and 1"):
        extremal_perturbation(Classifier(Inside(), input_size=32), torch.zeros(1, 3, 32, 32), **options)  # type: ignore[arg-type]


def test_a_single_area_may_be_a_number():
    masks = extremal_masks(Classifier(Inside(), input_size=32), torch.rand(1, 3, 32, 32), areas=0.2, steps=1)  # type: ignore[arg-type]
    assert masks.shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"areas": 0}, "count=0"),
        ({"jitter": 32}, "jitter=32 is not smaller than the images"),
        ({"steps": 1.0}, "not a valid integer"),
    ],
)
def test_invalid_options_of_a_fitted_inr(options: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        attribute("inr", Classifier(Inside(), input_size=32), torch.rand(1, 3, 32, 32), 0, **options)
