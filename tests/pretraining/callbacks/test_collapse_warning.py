"""The warning for collapsed masks."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ltx.pretraining.callbacks.collapse_warning import CollapseWarning


def trainer(mean: float, spread: float) -> Any:
    metrics = {"val/mask_mean": torch.tensor(mean), "val/mask_spread": torch.tensor(spread)}
    return SimpleNamespace(sanity_checking=False, callback_metrics=metrics, global_step=3)


@pytest.mark.parametrize(("mean", "change"), [(0.01, "lower"), (0.99, "raise")])
def test_constant_masks_are_reported_with_the_fix(mean: float, change: str):
    with pytest.warns(UserWarning, match=rf"step 3: the masks have collapsed .*; {change} objective\.area\.weight"):
        CollapseWarning().on_validation_end(trainer(mean, 0.001), None)  # type: ignore[arg-type] # unused


def test_varying_masks_are_not_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CollapseWarning().on_validation_end(trainer(0.4, 0.3), None)  # type: ignore[arg-type] # unused
