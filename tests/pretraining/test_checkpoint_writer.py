"""A run in the folder of a previous one: what it removes, when, and what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltx import InputError
from ltx.pretraining.model_card import remove_previous_run
from ltx.pretraining.run import run_pretraining
from tests.support.small_trainings import metric_rows, training_step_replaced


def test_a_new_run_leaves_nothing_of_the_previous_one(config_for: Any):
    out = run_pretraining(config_for("run"))
    (out / "notes.txt").write_text("mine")
    (out / "overlays" / "favourite.png").write_text("mine")
    steps: list[int] = []

    def stops(step: Any, module: Any, batch: Any) -> Any:
        steps.append(module.global_step)
        if module.global_step == 2:
            raise KeyError("stopped")
        return step(batch)

    changed = ["objective.area.weight=2", "trainer.max_steps=4", "trainer.validate_every=1"]
    with training_step_replaced(stops), pytest.raises(KeyError):
        run_pretraining(config_for("run", *changed, "resume=false"))
    left = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    pictures = {"overlays/step_000001.png", "overlays/step_000002.png"}
    assert left - pictures == {
        *("config.yaml", "explainer.safetensors", "last.ckpt", "metrics.csv", "notes.txt", "overlays/favourite.png")
    }
    run_pretraining(config_for("run", *changed))
    assert steps == [0, 1, 2]
    pictures = {f"step_{step:06d}.png" for step in range(1, 5)}
    assert {file.name for file in (out / "overlays").glob("step*")} == pictures


@pytest.mark.parametrize("init", [False, True])
def test_a_new_run_that_dies_early_leaves_the_previous_checkpoint(config_for: Any, init: bool):
    """A network of the previous settings under the new run's name would be taken for the new run's."""
    out = run_pretraining(config_for("run"))
    names = ["config.yaml", "explainer.safetensors", "last.ckpt", "README.md", "metrics.csv"]
    names += [f"overlays/step_00000{step}.png" for step in (3, 6)]
    before = [(out / name).read_bytes() for name in names]
    words = ["objective.area.weight=3", *([f"init={out}"] if init else [])]

    def dies(*_: Any) -> None:
        raise KeyError("before the first resume point")

    with training_step_replaced(dies), pytest.raises(KeyError, match="first resume point"):
        run_pretraining(config_for("run", *words, "resume=false"))
    assert [(out / name).read_bytes() for name in names] == before
    with pytest.raises(InputError, match=r"contains a run with .*resume=false to start from scratch"):
        run_pretraining(config_for("run", *words))


def test_a_new_run_that_logs_and_draws_nothing_removes_rows_and_pictures(config_for: Any):
    out = run_pretraining(config_for("run"))
    words = ["data.val_share=0", "trainer.max_steps=1", "trainer.log_every=100"]
    run_pretraining(config_for("run", *words, "resume=false"))
    assert metric_rows(out) == []
    assert not list((out / "overlays").iterdir())


def test_files_of_the_user_are_not_removed(tmp_path: Path):
    for name in ("last.ckpt", "README.md", "results.csv"):
        (tmp_path / name).write_text("# My experiments")
    remove_previous_run(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "results.csv"}
