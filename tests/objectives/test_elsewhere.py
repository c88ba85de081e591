"""The elsewhere term against values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltx.objectives.elsewhere import Elsewhere
from ltx.objectives.objective import Objective
from ltx.objectives.settings import TERMS, ObjectiveConfig
from tests.support.masked_batches import batch_for, left_half, value


def test_elsewhere_is_the_kept_share_of_other_photographs():
    # A mask of 0.25 over a quarter that is another photograph, and of 1 in the left half elsewhere.
    mask = left_half()
    mask[..., 4:, :4] = 0.25
    batch = batch_for(mask)
    assert value(Elsewhere(), batch) == 0, "whole photographs"
    other = torch.zeros(1, 1, 8, 8)
    other[..., 4:, :4] = 1
    assert value(Elsewhere(), replace(batch, elsewhere=other)) == pytest.approx(0.25 * 0.25)
    config = ObjectiveConfig(**{name: replace(getattr(ObjectiveConfig(), name), weight=0.0) for name in TERMS})
    config.elsewhere.weight, config.area.weight = 6.0, 2.0
    verdict = Objective(config)(replace(batch, elsewhere=other))
    assert float(verdict.loss) == pytest.approx(6 * 0.0625 + 2 * (0.25 + 0.0625))
    assert float(Objective(config)(batch).loss) == pytest.approx(2 * (0.25 + 0.0625))
