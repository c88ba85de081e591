"""Each kind of the area term against values computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ltx.objectives.area import Area
from tests.support.masked_batches import batch_for, left_half, value


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("l1", 0.25),
        ("released", 0.25 * math.log1p(math.e) + 0.75 * math.log(2)),
        ("band", 0.05),
        ("sorted", (0.5 - 0.25)),
    ],
)
def test_area_of_a_quarter(kind: str, expected: float):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :4] = 1
    term = Area(kind=kind, low=0.0, high=0.2, target=0.5)
    assert value(term, batch_for(mask)) == pytest.approx(expected, rel=1e-4)


def test_area_of_a_grey_mask():
    mask = torch.full((1, 1, 8, 8), 0.25)
    assert value(Area(kind="bce"), batch_for(mask)) == pytest.approx(-math.log(0.75), rel=1e-4)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert value(Area(kind="entropy"), batch_for(mask)) == pytest.approx(entropy, rel=1e-4)
    # Sorted: r is 1 on the top half: mean of 0.25² and 0.75².
    sorted_value = value(Area(kind="sorted", target=0.5), batch_for(mask))
    assert sorted_value == pytest.approx((0.0625 + 0.5625) / 2, rel=1e-4)


def test_sorted_area_is_zero_for_a_binary_mask_of_that_area():
    assert value(Area(kind="sorted", target=0.5), batch_for(left_half())) == pytest.approx(0, abs=1e-6)


def test_released_area_is_averaged_over_the_mask_before_upsampling():
    """Transcription of the released LTX code: `BCEWithLogitsLoss()(mask, zeros)` on the 14 x 14 token mask."""
    scores = torch.randn(3, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    mask = torch.nn.functional.interpolate(scores.sigmoid(), (224, 224), mode="bilinear")
    batch = replace(batch_for(torch.ones(3, 1, 8, 8)), scores=scores, mask=mask)
    tokens = scores.sigmoid()
    expected = torch.nn.BCEWithLogitsLoss(reduction="none")(tokens, torch.zeros_like(tokens)).mean((1, 2, 3))
    penalties = Area(kind="released")(batch, {})
    torch.testing.assert_close(penalties, expected)
    assert not torch.allclose(penalties, torch.log1p(mask.exp()).mean((1, 2, 3)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [{"areas": torch.full((3,), 0.2)}, {"allowed": torch.ones(3, 1, 8, 8)}])
def test_released_area_of_restricted_masks_is_averaged_over_the_pixels(changes: dict[str, torch.Tensor]):
    mask = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    penalties = Area(kind="released")(replace(batch_for(mask), **changes), {})
    torch.testing.assert_close(penalties, torch.log1p(mask.exp()).mean((1, 2, 3)))
