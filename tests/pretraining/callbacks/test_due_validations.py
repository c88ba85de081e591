"""Validations that Lightning's schedule leaves out: of the last step, and of the step that a run resumes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.run import run_pretraining
from tests.support.small_trainings import metric_rows


def test_the_last_step_is_validated_for_any_interval(config_for: Any):
    out = run_pretraining(config_for("run", "trainer.max_steps=3", "trainer.validate_every=2"))
    validated = [row for row in metric_rows(out) if row["val/loss"]]
    assert [row["step"] for row in validated] == ["2", "3"]
    assert [file.name for file in sorted((out / "overlays").iterdir())] == ["step_000002.png", "step_000003.png"]
    card = (out / "README.md").read_text()
    assert "3 steps" in card
    assert f"| loss | {float(validated[1]['val/loss']):.4f} |" in card


def test_a_run_that_died_in_a_validation_repeats_it(config_for: Any, tmp_path: Path):
    words = ["trainer.max_steps=4", "trainer.checkpoint_every=1", "trainer.validate_every=2"]
    whole, cut = (config_for(name, *words) for name in ("whole", "cut"))
    run_pretraining(whole)
    validate = LTXPretraining.validation_step
    for step in (2, 4):  # the second is the last step

        def dies(self: LTXPretraining, batch: dict[str, Tensor], batch_idx: int, step: int = step) -> None:
            if self.global_step == step:
                raise KeyError("in validation")
            validate(self, batch, batch_idx)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LTXPretraining, "validation_step", dies)
            with pytest.raises(KeyError, match="in validation"):
                run_pretraining(cut)
    assert not (tmp_path / "cut" / "README.md").exists()
    run_pretraining(cut)
    assert metric_rows(tmp_path / "whole") == metric_rows(tmp_path / "cut")
    for name in ("README.md", "explainer.safetensors", "overlays/step_000002.png", "overlays/step_000004.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
