"""Interrupted runs: what resumes, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ltx import InputError
from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import TrainConfig
from tests.support.small_inputs import taught_by_gradcam
from tests.support.small_trainings import assert_same_weights, metric_rows, saved_step, training_step_replaced


class KilledError(Exception):
    pass


def run_and_die(config: TrainConfig, step: int = 5) -> None:
    """Start a run that dies in the step after `step`."""

    def dies(original: Any, module: Any, batch: Any) -> Any:
        if module.global_step == step:
            raise KilledError
        return original(batch)

    with training_step_replaced(dies), pytest.raises(KilledError):
        run_pretraining(config)


RISING = [
    f"{name}=[[0,{low}],[1,{high}]]" for name, low, high in (("data.mosaic", 0, 1), ("objective.area.weight", 1, 4))
]
"""Schedules that change the settings on both sides of the interruption."""


@pytest.mark.parametrize(("accumulate", "teacher"), [(1, False), (2, False), (2, True)])
def test_a_resumed_run_ends_as_the_uninterrupted_one(config_for: Any, tmp_path: Path, accumulate: int, teacher: bool):
    words = [*RISING, f"trainer.accumulate={accumulate}", *(taught_by_gradcam(tmp_path) if teacher else [])]
    words += ["objective.teacher.weight=5"] if teacher else []  # on both sides of the interruption
    whole = run_pretraining(config_for("whole", *words))
    config = config_for("cut", *words)
    run_and_die(config)
    assert saved_step(tmp_path / "cut") == 4
    resumed = run_pretraining(config)
    assert_same_weights(whole, resumed)
    assert metric_rows(whole) == metric_rows(resumed)


@pytest.mark.parametrize(("before", "after"), [((4, 1), (2, 2)), ((2, 2), (4, 1)), ((1, 4), (2, 2))])
def test_a_run_resumes_with_another_batch_size_for_steps_of_the_same_size(
    config_for: Any, before: tuple[int, int], after: tuple[int, int]
):
    def config(name: str, batch_size: int, accumulate: int) -> Any:
        words = [f"data.batch_size={batch_size}", f"trainer.accumulate={accumulate}", "data.mosaic=0"]
        return config_for(name, *words, "trainer.checkpoint_every=3", "trainer.validate_every=2")

    run_and_die(config("cut", *before))
    whole, resumed = run_pretraining(config("whole", *before)), run_pretraining(config("cut", *after))
    losses = [[(row["step"], float(row["val/loss"] or "nan")) for row in metric_rows(run)] for run in (whole, resumed)]
    assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]]
    assert losses[0] == [(step, pytest.approx(loss, abs=1e-4, nan_ok=True)) for step, loss in losses[1]]
    assert_same_weights(whole, resumed, tolerance=2e-3)


def test_a_run_from_before_a_setting_existed_resumes(config_for: Any):
    out = run_pretraining(config_for("run"))
    settings = yaml.safe_load((out / "config.yaml").read_text())
    del settings["teacher"], settings["objective"]["teacher"]
    (out / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError, match=r"contains a run with objective\.teacher\.weight=0\.0, now 1"):
        run_pretraining(config_for("run", "objective.teacher.weight=1"))
    run_pretraining(config_for("run"))


def test_a_run_from_before_the_recipe_says_which_setting_differs(config_for: Any):
    plain = "objective.ranking.weight=0"
    out = run_pretraining(config_for("run", plain))
    settings = yaml.safe_load((out / "config.yaml").read_text())
    del settings["objective"]["ranking"]
    (out / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(
        InputError, match=r"contains a run with objective\.ranking\.high=0\.9, now 0\.7; choose another"
    ):
        run_pretraining(config_for("run"))


def test_a_finished_run_is_not_trained_again(config_for: Any):
    config = config_for("run")
    logged: list[dict[str, float]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ltx.pretraining.checkpoint_writer.log_checkpoint", lambda *arguments: logged.append(arguments[3])
        )
        out = run_pretraining(config)
        before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
        run_pretraining(config)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert len(logged) == 1
    assert logged[0].keys() >= {"val/kept", "val/removed"}


def test_a_run_of_other_settings_in_the_same_folder_is_refused(config_for: Any):
    run_pretraining(config_for("run"))
    with pytest.raises(InputError, match=r"optimiser\.lr=0\.002, now 0\.01; choose another out"):
        run_pretraining(config_for("run", "optimiser.lr=0.01"))
    run_pretraining(config_for("run", "optimiser.lr=0.01", "resume=false"))


def test_a_damaged_file_is_named_with_the_fix(config_for: Any):
    out = run_pretraining(config_for("run"))
    settings, point = (out / "config.yaml").read_bytes(), (out / "last.ckpt").read_bytes()
    flipped = bytearray(point)
    flipped[len(point) // 2] ^= 1
    for broken in (point[: len(point) // 2], bytes(flipped)):
        (out / "last.ckpt").write_bytes(broken)
        with pytest.raises(InputError, match=r"last\.ckpt is incomplete or damaged; .* resume=false"):
            run_pretraining(config_for("run"))
    (out / "last.ckpt").write_bytes(point)
    for damaged in (b"classifier: {name: ", b"", None):
        (out / "config.yaml").unlink()
        if damaged is not None:
            (out / "config.yaml").write_bytes(damaged)
        with pytest.raises(InputError, match=r"contains last\.ckpt, but no readable config\.yaml; .* resume=false"):
            run_pretraining(config_for("run"))
        (out / "config.yaml").write_bytes(settings)
    (out / "last.ckpt").write_bytes(b"")
    run_pretraining(config_for("run", "resume=false"))


def test_a_checkpoint_of_a_stranger_runs_no_code(config_for: Any, tmp_path: Path):
    out = run_pretraining(config_for("run"))
    torch.save({"state_dict": Trace(tmp_path / "ran")}, out / "last.ckpt")
    with pytest.raises(
        InputError, match=r"last\.ckpt contains more than tensors and plain values, which could run code"
    ):
        run_pretraining(config_for("run"))
    assert not (tmp_path / "ran").exists()


class Trace:
    """A pickle that leaves a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.file),)
