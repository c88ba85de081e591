"""Bootstrap intervals of means over images."""

from __future__ import annotations

import pytest
import torch

from ltx.evaluation import intervals as intervals_module
from ltx.evaluation.intervals import interval, weight_blocks


def test_interval_of_a_mean():
    values = torch.tensor([0.0] * 80 + [1.0] * 20, dtype=torch.float64)
    low, high = interval(
        torch.cat([weights @ values / 100 for weights in weight_blocks(torch.arange(100), 4000, seed=0)])
    )
    # Normal approximation: 0.2 ± 1.96·sqrt(0.16/100).
    assert low == pytest.approx(0.2 - 0.0784, abs=0.012)
    assert high == pytest.approx(0.2 + 0.0784, abs=0.012)


def test_resamples_have_the_sample_size_and_do_not_depend_on_the_block_size(monkeypatch):
    whole = torch.cat(list(weight_blocks(torch.arange(7), 50, seed=3)))
    assert (whole.sum(1) == 7).all()
    monkeypatch.setattr(intervals_module, "CELLS", 20)
    parts = list(weight_blocks(torch.arange(7), 50, seed=3))
    assert len(parts) > 1
    assert torch.equal(torch.cat(parts), whole)


def test_rows_of_one_photograph_are_drawn_together():
    rows = torch.tensor([4, 9, 4, 4, 2])
    weights = torch.cat(list(weight_blocks(rows, 200, seed=1)))
    assert torch.equal(weights[:, 0], weights[:, 2])
    assert torch.equal(weights[:, 0], weights[:, 3])
    assert (weights[:, [0, 1, 4]].sum(1) == 3).all()  # the number of photographs


def test_cluster_bootstrap_covers_the_mean_of_photographs():
    """20 photographs appear in 10 mosaics each with equal scores: the interval covers the mean over photographs."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(20).repeat(10)
    covered = {"together": 0, "alone": 0}
    for _ in range(200):
        values = torch.randn(20, generator=generator, dtype=torch.float64)[rows]
        for kind, of in {"together": rows, "alone": torch.arange(200)}.items():
            means = [(w @ values) / w.sum(1) for w in weight_blocks(of, 200, seed=0)]
            low, high = interval(torch.cat(means))
            covered[kind] += low <= 0 <= high
    assert 0.86 * 200 <= covered["together"] <= 200
    assert covered["alone"] < 0.6 * 200
