"""The recipe: its schedules reach every term and the mosaics, and validations can be compared."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

import ltx.pretraining.ltx as pretraining
from ltx import load
from ltx.config.schedules import value_at
from ltx.finetuning.training_defaults import trained_objective
from ltx.objectives.area import Area
from ltx.objectives.ranking import Ranking
from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import TrainerConfig

RISING = [[0.0, 1.0], [1.0, 4.0]]


def test_terms_and_mosaics_see_the_value_of_each_step_and_validation_that_of_the_end(
    config_for: Any, monkeypatch: pytest.MonkeyPatch
):
    seen: dict[str, list[float]] = {"removed": [], "area": [], "mosaic": []}
    evaluate, area, mosaics = Ranking.__call__, Area.__call__, pretraining.make_mosaics

    def spy(name: str, setting: str, original: Any) -> Any:
        def call(term: Any, *arguments: Any) -> Any:
            seen[name].append(getattr(term, setting))
            return original(term, *arguments)

        return call

    def spied_mosaics(images: Any, share: float, generator: Any) -> Any:
        seen["mosaic"].append(share)
        return mosaics(images, share, generator)

    monkeypatch.setattr(Ranking, "__call__", spy("removed", "removed", evaluate))
    monkeypatch.setattr(Area, "__call__", spy("area", "weight", area))
    monkeypatch.setattr(pretraining, "make_mosaics", spied_mosaics)
    words = [f"{name}={RISING}" for name in ("objective.ranking.removed", "objective.area.weight")]
    out = run_pretraining(config_for("run", *words, "data.mosaic=[[0,0],[1,1]]"))
    steps = [1 + 3 * step / 6 for step in range(6)]
    expected = [*steps[:3], 4, *steps[3:], 4]  # one validation batch after each three steps
    assert seen["removed"] == pytest.approx(expected)
    assert seen["area"] == pytest.approx(expected)
    assert seen["mosaic"] == pytest.approx([step / 6 for step in range(6)])
    assert yaml.safe_load((out / "config.yaml").read_text())["objective"]["ranking"]["removed"] == RISING
    finetuned = trained_objective(load(out))
    assert value_at(finetuned.ranking.removed, 1.0) == 4


def test_validation_estimates_insertion_minus_deletion(config_for: Any, capsys: pytest.CaptureFixture[str]):
    out = run_pretraining(config_for("run", "trainer.max_steps=10", "trainer.validate_every=1"))
    rows = [line.split(",") for line in (out / "metrics.csv").read_text().splitlines()]
    place = rows[0].index("val/order")
    validated = [row for row in rows[1:] if len(row) > place and row[place]]
    assert [int(row[0]) for row in validated] == list(range(1, 11))
    assert all(-1 < float(row[place]) < 1 for row in validated)
    assert "expected gain of a longer training, with 2 times: " in capsys.readouterr().out


def test_a_training_is_validated_ten_times_unless_it_is_short():
    for steps, every in ((60, 20), (200, 20), (400, 40), (20000, 2000)):
        assert TrainerConfig(max_steps=steps).validation_interval == every
    assert TrainerConfig(max_steps=400, validate_every=7).validation_interval == 7
