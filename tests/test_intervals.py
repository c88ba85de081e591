"""Bootstrap intervals of means over images."""

from __future__ import annotations

import pytest
import torch

from ltx.evaluation import intervals as intervals_module
from ltx.evaluation.intervals import interval, weight_blocks


def test_intervals_are_those_of_the_mean():
    values = torch.tensor([0.0] * 80 + [1.0] * 20, dtype=torch.float64)
    low, high = interval(torch.cat([weights @ values / 100 for weights in weight_blocks(100, 4000, seed=0)]))
    # Normal approximation: 0.2 ± 1.96·sqrt(0.16/100).
    assert low == pytest.approx(0.2 - 0.0784, abs=0.012)
    assert high == pytest.approx(0.2 + 0.0784, abs=0.012)


def test_resamples_draw_as_many_images_and_do_not_depend_on_the_block(monkeypatch):
    whole = torch.cat(list(weight_blocks(7, 50, seed=3)))
    assert (whole.sum(1) == 7).all()
    monkeypatch.setattr(intervals_module, "CELLS", 20)
    parts = list(weight_blocks(7, 50, seed=3))
    assert len(parts) > 1
    assert torch.equal(torch.cat(parts), whole)
