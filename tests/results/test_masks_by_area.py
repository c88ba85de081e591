"""Masks by area: search for the smallest sufficient one, any resolution, invalid areas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ltx import Classifier, InputError
from ltx.results.masks_by_area import AreaMasks
from tests.support.coordinate_networks import amortised_inr
from tests.support.small_explainers import smooth_images


def test_the_smallest_sufficient_area_is_found_by_search():
    """Masks grow from the left; the class needs the columns up to the one that its image says."""

    class Needs(nn.Module):
        num_classes = 2

        def forward(self, x: Tensor) -> Tensor:
            kept = x[:, 0, 0].mean(1)  # the share of columns that are kept, of a white picture
            evidence = 400 * (kept - x[:, 1, 0, 0])  # the share that is needed, written into the first pixel
            return torch.stack([evidence, -evidence], 1)

    images = torch.ones(3, 3, 2, 100)
    images[:, 1] = torch.tensor([0.13, 0.62, 2.0]).view(3, 1, 1)

    def ask(areas: Tensor, size: tuple[int, int] | None) -> Tensor:
        columns = torch.arange(100) / 100
        return (columns < areas[..., None]).float()[:, :, None].expand(-1, -1, 2, -1)

    whole = torch.ones(3)
    classifier = Classifier(Needs(), input_size=(2, 100))
    found = AreaMasks(classifier, images, torch.zeros_like(images), torch.zeros(3, dtype=torch.long), whole, ask)
    areas, masks, probability = found.smallest_sufficient()
    assert 0.13 <= float(areas[0]) <= 0.15
    assert 0.62 <= float(areas[1]) <= 0.64
    assert math.isnan(float(areas[2]))
    assert torch.allclose(masks[:2].mean((1, 2, 3)), areas[:2], atol=0.011)
    assert bool((probability[:2] >= 0.9).all())
    assert float(probability[2]) < 0.1
    entry = found.entry()
    assert entry[0, 0, 0, [0, 3, 45, 99]].tolist() == pytest.approx([0.02, 0.05, 0.5, 1.0])


def test_areas_of_another_batch_size_are_refused():
    found = amortised_inr().explain(smooth_images())
    assert found.at(torch.tensor([0.1, 0.2, 0.3])).mask is not None
    with pytest.raises(InputError, match=r"area=\[0\.1, 0\.2\]; give one for all images"):
        found.at([0.1, 0.2])  # type: ignore[arg-type]
    for areas in ([], torch.full((2, 1), 0.1), torch.full((3, 1, 1), 0.1)):
        with pytest.raises(InputError, match=r"areas of shape .* for 3 images"):
            found.by_area(areas)  # type: ignore[misc, arg-type]


def test_any_resolution():
    explainer, images = amortised_inr(), smooth_images(2)
    by_area = explainer.explain(images, 1).by_area
    assert by_area is not None
    usual, fine = by_area(0.2), by_area(0.2, (96, 160))
    assert fine.shape == (2, 1, 96, 160)
    assert torch.allclose(fine.mean((2, 3)), torch.full((2, 1), 0.2), atol=1e-3)
    smaller = nn.functional.interpolate(fine, (64, 64), mode="area")
    assert float((smaller - usual).abs().mean()) < 0.08, "the same mask, seen more finely"
