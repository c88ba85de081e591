"""Whole runs: what they write, and settings that are refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from ltx import Classifier, InputError, load
from ltx.objectives.objective import Objective
from ltx.pretraining.run import run_pretraining
from tests.support.small_inputs import taught_by_gradcam, write_photographs
from tests.support.small_trainings import assert_same_weights, metric_rows


def test_a_run_writes_the_documented_files(config_for: Any):
    out = run_pretraining(config_for("run"))
    names = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert names == {
        "README.md",
        "config.yaml",
        "explainer.safetensors",
        "last.ckpt",
        "metrics.csv",
        "overlays/step_000003.png",
        "overlays/step_000006.png",
    }
    rows = metric_rows(out)
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [1, 2, 3, 4, 5, 6]
    validated = [row for row in rows if row["val/kept"]]
    assert [int(row["step"]) for row in validated] == [3, 6]
    assert {"val/removed", "val/mask_mean", "val/mask_spread", "val/mask_saturated"} <= validated[0].keys()
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert settings["classifier"]["num_classes"] == 6
    assert settings["trainer"]["max_steps"] == 6
    assert "resnet18" in (out / "README.md").read_text()
    keys = torch.load(out / "last.ckpt", weights_only=True)["state_dict"]
    assert keys
    assert all(key.startswith("explainer.") for key in keys)
    load(out)


def test_teacher_maps_are_computed_once_and_their_term_is_annealed(
    config_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = taught_by_gradcam(tmp_path)
    config = config_for("run", *words)
    out = run_pretraining(config)
    assert len(list((tmp_path / "maps").glob("*.npz"))) == 8  # the training images, without the two held out
    rows = metric_rows(out)
    training = [row for row in rows if row["train/loss"]]
    assert [bool(row["train/teacher"]) for row in training] == [True] * 3 + [False] * 3
    assert "val/teacher" not in rows[0]
    weights = [5, 10 / 3, 5 / 3, 0, 0, 0]
    for step, (row, weight) in enumerate(zip(training, weights, strict=True)):
        terms = Objective(config.objective).weights(step / 6)
        assert terms["teacher"] == pytest.approx(weight)
        total = sum(scale * float(row.get(f"train/{name}") or 0) for name, scale in terms.items())
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5)
    assert "taught by `gradcam`" in (out / "README.md").read_text()

    def recomputed(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("ltx.attribution.teacher_maps.attribute", recomputed)
    assert_same_weights(out, run_pretraining(config_for("again", *words)))


def test_a_term_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    config_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ltx.objectives.remove import Remove

    call, calls = Remove.__call__, []

    def poisoned(self: Remove, batch: Any, logits: Any) -> Tensor:
        calls.append(1)
        return call(self, batch, logits) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(Remove, "__call__", poisoned)
    with pytest.raises(
        InputError, match=r"the term remove is not finite at step \d, for the images .*\.png.*last checkpoint"
    ):
        run_pretraining(config_for("run"))
    explainer = load(tmp_path / "run")
    assert all(value.isfinite().all() for value in explainer.state_dict().values())


@pytest.mark.parametrize("word", ["trainer.devices=0", "trainer.devices=abc", "trainer.devices=[0,0]"])
def test_impossible_devices_are_one_line(config_for: Any, word: str):
    with pytest.raises(InputError, match=r"^trainer\.accelerator=cpu, trainer\.devices=.*; give a number of devices"):
        run_pretraining(config_for("run", word))


def test_an_objective_without_weights_is_refused(config_for: Any):
    words = [f"objective.{name}.weight=0" for name in ("keep", "remove", "area", "ranking")]
    with pytest.raises(InputError, match=r"every objective\.\*\.weight is 0"):
        run_pretraining(config_for("run", *words, "objective.smoothness.weight=[[0,0],[1,0]]"))


def test_an_objective_without_weights_for_a_while_is_refused(config_for: Any):
    terms = ("keep", "remove", "area", "smoothness", "ranking")
    words = [f"objective.{name}.weight=[[0,1],[0.25,0],[0.5,0],[1,1]]" for name in terms]
    with pytest.raises(InputError, match=r"every objective\.\*\.weight is 0 at 0\.25 of the training"):
        run_pretraining(config_for("run", *words))


@pytest.mark.parametrize("word", ["data.mosaic=0", "explainer.conditioned=false", "data.batch_size=1"])
def test_the_elsewhere_term_without_mosaics_is_refused(config_for: Any, word: str):
    with pytest.raises(InputError, match=r"objective\.elsewhere\.weight above 0 needs mosaics"):
        run_pretraining(config_for("run", "data.mosaic=0.5", "objective.elsewhere.weight=1", word))


def test_the_overlays_of_an_unreadable_image_name_it(config_for: Any, tmp_path: Path) -> None:
    """The error is not taken for one of the settings of devices."""
    val = write_photographs(tmp_path / "val", ["a.jpg"], (40, 40))
    (val / "a.jpg").write_bytes((val / "a.jpg").read_bytes()[:600])
    with pytest.raises(InputError, match=r"^none of the 1 images can be read; .*a\.jpg cannot be read"):
        run_pretraining(config_for("run", f"data.val_images={val}", "trainer.overlays=1"))


def test_unreadable_validation_images_are_an_error(config_for: Any, shards: Path, tmp_path: Path) -> None:
    """With several processes, the others would wait for the scores of the one that has none."""
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        info = tarfile.TarInfo("bad.jpg")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"junk"))
    words = [f"data.shards={shards}", f"data.val_images={tmp_path / 'val.tar'}", "trainer.overlays=0"]
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(InputError, match=r"none of the validation images .* can be read"),
    ):
        run_pretraining(config_for("run", *words))


def test_too_few_shards_stop_before_training(config_for: Any, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"4 shards .* 1 ranks x 5 workers = 5 readers; set data\.workers=4 or less"):
        run_pretraining(config_for("run", f"data.shards={shards}", "data.workers=5"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_compiled_classifier_trains_to_rounding(config_for: Any) -> None:
    plain = run_pretraining(config_for("plain"))
    compiled = run_pretraining(config_for("compiled", "trainer.compile=true"))
    assert_same_weights(plain, compiled, tolerance=3e-3)
    assert Classifier("resnet18", weights="random").compile().fingerprint()
