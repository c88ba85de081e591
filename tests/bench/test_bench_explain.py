"""`ltx bench explain`: each precision has a line for every way to explain, relative to a prediction."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ltx import Classifier, InputError
from ltx.bench.explain import TITLES, measure
from ltx.bench.settings import ExplainBench
from ltx.checkpoints.folder import save_checkpoint
from ltx.config.command_line import parse
from ltx.explainers.unet import UNetExplainer
from tests.support.small_inputs import write_weights


def test_every_way_is_timed_against_a_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"name": "resnet10t", "weights": str(write_weights(tmp_path)), "num_classes": 4, "input_size": 64}
    config = {"classifier": settings, "explainer": {"name": "unet"}}
    save_checkpoint(tmp_path / "explainer", UNetExplainer(Classifier(**settings)), config, "")  # type: ignore[arg-type]
    options = [f"checkpoint={tmp_path / 'explainer'}", "count=2", "repeats=1", "device=cpu"]
    measure(parse(ExplainBench, options, "bench", ""))
    printed = capsys.readouterr().out
    for title in TITLES.values():
        assert len(re.findall(rf"ms +[\d.]+ x  {re.escape(title)}$", printed, re.MULTILINE)) == 2, "fp32 and bf16"
    assert printed.count(" 1.00 x ") >= 2, "the prediction itself"
    assert re.search(r"masks, bf16 - fp32: mean [\d.e-]+, largest", printed)
    with pytest.raises(InputError, match="count=0"):
        measure(parse(ExplainBench, [*options, "count=0"], "bench", ""))
