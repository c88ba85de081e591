"""The keep and remove terms against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ltx.objectives.keep import Keep
from ltx.objectives.remove import Remove
from tests.support.masked_batches import batch_for, left_half, value


def test_keep_and_remove_on_a_linear_classifier():
    # Kept left half: logits (10, 0); removed: (0, 10); whole: (10, 10).
    batch = batch_for(left_half())
    p = math.exp(10) / (math.exp(10) + 1)
    assert value(Keep(), batch) == pytest.approx(-math.log(p), abs=1e-6)
    assert value(Keep(kind="lost_probability"), batch) == pytest.approx(1 - p, abs=1e-6)
    assert value(Keep(kind="logit"), batch) == pytest.approx(-10)
    assert value(Keep(kind="kl"), batch) == pytest.approx(
        0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p)), rel=1e-4
    )
    assert value(Remove(), batch) == pytest.approx(-math.log(p), abs=1e-6)
    assert value(Remove(kind="logit"), batch) == pytest.approx(0)
    assert value(Remove(), batch_for(1 - left_half())) == pytest.approx(10 + math.log1p(math.exp(-10)), rel=1e-5)


def test_sigmoid_heads_read_one_logit():
    batch = batch_for(left_half(), head="sigmoid")
    assert value(Keep(), batch) == pytest.approx(math.log1p(math.exp(-10)), abs=1e-6)
    assert value(Remove(), batch) == pytest.approx(math.log(2), rel=1e-5)  # logit 0
    assert value(Keep(kind="kl"), batch_for(torch.ones(1, 1, 8, 8), head="sigmoid")) == pytest.approx(0, abs=1e-6)
