"""The smoothness term against values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltx.objectives.smoothness import Smoothness
from tests.support.masked_batches import batch_for, left_half, value


def test_smoothness_counts_the_only_edge():
    # On the 4x4 grid one of three horizontal neighbour pairs in each row differs by 1.
    for power in (1.0, 2.0):
        assert value(Smoothness(power=power), batch_for(left_half())) == pytest.approx(1 / 3, rel=1e-3)


def test_smoothness_of_a_grid_of_one_row():
    batch = replace(batch_for(left_half()), scores=torch.tensor([[[[-9.0, -9.0, 9.0]]]]))
    assert value(Smoothness(), batch) == pytest.approx(1 / 2, rel=1e-3)
    assert value(Smoothness(), replace(batch, scores=torch.zeros(1, 1, 1, 1))) == 0
