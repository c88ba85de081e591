"""Settings of `ltx train`: ranges, and the schedule of the learning rate."""

from __future__ import annotations

from typing import Any

import pytest

from ltx import InputError
from ltx.pretraining.settings import OptimiserConfig


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        *(
            (f"trainer.{name}=0", "give 1 or more")
            for name in ("nodes", "validate_every", "checkpoint_every", "log_every")
        ),
        ("trainer.overlays=-1", "give 0 or more"),
        ("data.mosaic=1.5", "give a number from 0 to 1"),
        ("data.mosaic=-0.5", "give a number from 0 to 1"),
        ("data.crop_scale=[0.5]", "give two shares of the area"),
        ("data.crop_scale=[0.1,0.5,1.0]", "give two shares of the area"),
        ("seed=-1", "give a number from 0 to"),
        ("optimiser.lr=0", "give a number above 0"),
        ("optimiser.lr=nan", "give a number above 0"),
        ("optimiser.trunk_lr=-1.0", "give 0 or more"),
        ("optimiser.weight_decay=-1.0", "give 0 or more"),
        ("optimiser.warmup=2.0", "give a number from 0 to 1"),
        ("optimiser.floor=-1.0", "give a number from 0 to 1"),
        ("explainer.width=0", "give 1 or more"),
        ("explainer.stages=[]", "reads no feature maps"),
    ],
)
def test_a_number_out_of_range_is_one_line_with_its_fix(config_for: Any, word: str, fix: str):
    with pytest.raises(InputError) as error:
        config_for("run", word)
    line = str(error.value).replace(", ", ",").replace(".0;", ";")
    assert line.startswith(word.removesuffix(".0"))
    assert fix in str(error.value)
    assert "\n" not in line


def test_learning_rate_warms_up_linearly_and_decays_by_a_cosine():
    schedule = OptimiserConfig(warmup=0.1, floor=0.02)
    assert schedule.factor(0.05) == pytest.approx(0.5)
    assert schedule.factor(0.1) == pytest.approx(1)
    assert schedule.factor(0.55) == pytest.approx(0.51)
    assert schedule.factor(1) == pytest.approx(0.02)
