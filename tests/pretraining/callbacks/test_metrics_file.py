"""The training curves as a CSV file."""

from __future__ import annotations

from typing import Any

import pytest

from ltx.pretraining.run import run_pretraining
from tests.support.small_trainings import metric_rows


def test_the_rate_is_that_of_the_decoder_also_if_the_trunk_has_its_own(config_for: Any) -> None:
    words = ["explainer.trunk=copy", "optimiser.lr=0.25", "optimiser.warmup=0", "optimiser.floor=1"]
    rows = metric_rows(run_pretraining(config_for("run", *words, "trainer.max_steps=1", "data.val_share=0")))
    assert [float(row["lr"]) for row in rows] == [pytest.approx(0.25)]
