"""Runs in folders: they are resumed, refused, begun anew, and start from others."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from ltx import InputError, load
from ltx.checkpoints.folder import save_checkpoint
from ltx.classifier.settings import ClassifierConfig
from ltx.explainers.settings import ExplainerConfig
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.run import clear, pretrain, start_from
from ltx.pretraining.settings import TrainConfig
from tests.support.small_inputs import taught_by_gradcam


@pytest.mark.parametrize(("accumulate", "teacher"), [(1, False), (2, False), (2, True)])
def test_a_resumed_run_ends_as_the_uninterrupted_one(
    config_for: Any, photos: Path, tmp_path: Path, accumulate: int, teacher: bool
):
    words = [f"trainer.accumulate={accumulate}", *(taught_by_gradcam(tmp_path) if teacher else [])]
    words += ["objective.teacher.weight=5"] if teacher else []  # on both sides of the interruption
    whole = pretrain(config_for(photos, tmp_path / "whole", *words))
    cut = config_for(photos, tmp_path / "cut", *words)
    begin_and_die(cut)
    point = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)
    assert point["global_step"] == 4
    resumed = pretrain(cut)
    first, second = load(whole).state_dict(), load(resumed).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert told(whole) == told(resumed)


def test_a_run_from_before_a_setting_existed_goes_on(config_for: Any, photos: Path, tmp_path: Path):
    out = pretrain(config_for(photos, tmp_path / "run"))
    settings = yaml.safe_load((out / "config.yaml").read_text())
    del settings["teacher"], settings["objective"]["teacher"]
    (out / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError, match=r"holds a run with objective\.teacher\.weight=0\.0, now 1"):
        pretrain(config_for(photos, out, "objective.teacher.weight=1"))
    pretrain(config_for(photos, out))


def test_a_finished_run_is_not_trained_again(config_for: Any, photos: Path, tmp_path: Path):
    config = config_for(photos, tmp_path / "run")
    shared: list[dict[str, float]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltx.pretraining.run.share_checkpoint", lambda *given: shared.append(given[3]))
        out = pretrain(config)
        before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
        pretrain(config)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert len(shared) == 1
    assert shared[0].keys() >= {"val/kept", "val/removed"}


def begin_and_die(config: TrainConfig) -> None:
    """A run that dies in its sixth step."""

    class KilledError(Exception):
        pass

    step = LTXPretraining.training_step

    def dies(self: LTXPretraining, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.global_step == 5:
            raise KilledError
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LTXPretraining, "training_step", dies)
        with pytest.raises(KilledError):
            pretrain(config)


def told(folder: Path) -> list[dict[str, str]]:
    return [{**row, "seconds": ""} for row in csv.DictReader((folder / "metrics.csv").open())]


def test_the_last_step_is_validated_whatever_the_interval(config_for: Any, photos: Path, tmp_path: Path):
    out = pretrain(config_for(photos, tmp_path / "run", "trainer.max_steps=3", "trainer.validate_every=2"))
    validated = [row for row in told(out) if row["val/loss"]]
    assert [row["step"] for row in validated] == ["2", "3"]
    assert [file.name for file in sorted((out / "overlays").iterdir())] == ["step_000002.png", "step_000003.png"]
    card = (out / "README.md").read_text()
    assert "3 steps" in card
    assert f"| loss | {float(validated[1]['val/loss']):.4f} |" in card


def test_a_run_that_died_in_a_validation_makes_it_again(config_for: Any, photos: Path, tmp_path: Path):
    words = ["trainer.max_steps=4", "trainer.checkpoint_every=1", "trainer.validate_every=2"]
    whole, cut = (config_for(photos, tmp_path / name, *words) for name in ("whole", "cut"))
    pretrain(whole)
    validate = LTXPretraining.validation_step
    for at in (2, 4):  # the second one is the last step

        def dies(self: LTXPretraining, batch: dict[str, Tensor], batch_idx: int, at: int = at) -> None:
            if self.global_step == at:
                raise KeyError("in validation")
            validate(self, batch, batch_idx)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LTXPretraining, "validation_step", dies)
            with pytest.raises(KeyError, match="in validation"):
                pretrain(cut)
    assert not (tmp_path / "cut" / "README.md").exists()
    pretrain(cut)
    assert told(tmp_path / "whole") == told(tmp_path / "cut")
    for name in ("README.md", "explainer.safetensors", "overlays/step_000002.png", "overlays/step_000004.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_other_settings_in_the_same_folder_are_refused(config_for: Any, photos: Path, tmp_path: Path):
    pretrain(config_for(photos, tmp_path / "run"))
    with pytest.raises(InputError, match=r"optimiser\.lr=0\.001, now 0\.01; choose another out"):
        pretrain(config_for(photos, tmp_path / "run", "optimiser.lr=0.01"))
    pretrain(config_for(photos, tmp_path / "run", "optimiser.lr=0.01", "resume=false"))


def test_a_run_does_not_go_on_with_steps_of_another_size(config_for: Any, photos: Path, tmp_path: Path):
    config = config_for(photos, tmp_path / "run")
    pretrain(config)
    size = config.data.batch_size
    with pytest.raises(InputError, match=rf"steps of {size} images, now {2 * size} .*make {size} again, or .*resume=f"):
        pretrain(config_for(photos, tmp_path / "run", f"data.batch_size={2 * size}"))


@pytest.mark.parametrize(("before", "after"), [((4, 1), (2, 2)), ((2, 2), (4, 1)), ((1, 4), (2, 2))])
def test_a_run_goes_on_in_other_batches_that_make_steps_of_the_same_size(
    config_for: Any, photos: Path, tmp_path: Path, before: tuple[int, int], after: tuple[int, int]
):
    def config(name: str, batch_size: int, accumulate: int) -> Any:
        words = [f"data.batch_size={batch_size}", f"trainer.accumulate={accumulate}", "data.mosaic=0"]
        return config_for(photos, tmp_path / name, *words, "trainer.checkpoint_every=3", "trainer.validate_every=2")

    begin_and_die(config("cut", *before))
    whole, resumed = pretrain(config("whole", *before)), pretrain(config("cut", *after))
    losses = [[(row["step"], float(row["val/loss"] or "nan")) for row in told(run)] for run in (whole, resumed)]
    assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]]
    assert losses[0] == [(step, pytest.approx(loss, abs=1e-4, nan_ok=True)) for step, loss in losses[1]]
    first, second = load(whole).state_dict(), load(resumed).state_dict()
    assert all(torch.allclose(first[key], second[key], rtol=0, atol=2e-3) for key in first)


def dies(*_: Any) -> None:
    raise KeyError("before the first resume point")


def test_a_new_run_in_the_same_folder_leaves_nothing_of_the_former_one(config_for: Any, photos: Path, tmp_path: Path):
    out = pretrain(config_for(photos, tmp_path / "run"))
    (out / "notes.txt").write_text("mine")
    (out / "overlays" / "favourite.png").write_text("mine")
    step, seen = LTXPretraining.training_step, list[int]()

    def stops(self: LTXPretraining, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        seen.append(self.global_step)
        return dies() if self.global_step == 2 else step(self, batch, batch_idx)  # type: ignore[return-value]

    anew = ["objective.area.weight=2", "trainer.max_steps=4", "trainer.validate_every=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LTXPretraining, "training_step", stops)
        with pytest.raises(KeyError):
            pretrain(config_for(photos, out, *anew, "resume=false"))
    left = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    pictures = {"overlays/step_000001.png", "overlays/step_000002.png"}
    assert left - pictures == {
        *("config.yaml", "explainer.safetensors", "last.ckpt", "metrics.csv", "notes.txt", "overlays/favourite.png")
    }
    pretrain(config_for(photos, out, *anew))
    assert seen == [0, 1, 2]
    pictures = {f"step_{step:06d}.png" for step in range(1, 5)}
    assert {file.name for file in (out / "overlays").glob("step*")} == pictures


@pytest.mark.parametrize("init", [False, True])
def test_a_new_run_that_dies_early_leaves_the_former_checkpoint(
    config_for: Any, photos: Path, tmp_path: Path, init: bool
):
    """Of the former settings: another network under the same name would be taken for the new run's."""
    out = pretrain(config_for(photos, tmp_path / "run"))
    names = ("config.yaml", "explainer.safetensors", "last.ckpt", "README.md")
    before = [(out / name).read_bytes() for name in names]
    words = ["objective.area.weight=2", *([f"init={out}"] if init else [])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LTXPretraining, "training_step", dies)
        with pytest.raises(KeyError, match="first resume point"):
            pretrain(config_for(photos, out, *words, "resume=false"))
    assert [(out / name).read_bytes() for name in names] == before
    with pytest.raises(InputError, match=r"holds a run with .*resume=false to start anew"):
        pretrain(config_for(photos, out, *words))


def test_what_is_not_of_a_former_run_is_not_cleared(tmp_path: Path):
    for name in ("last.ckpt", "README.md", "results.csv"):
        (tmp_path / name).write_text("# My experiments")
    clear(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "results.csv"}


def test_a_torn_file_of_a_former_run_is_named_with_its_mend(config_for: Any, photos: Path, tmp_path: Path):
    out = pretrain(config_for(photos, tmp_path / "run"))
    settings, point = (out / "config.yaml").read_bytes(), (out / "last.ckpt").read_bytes()
    (out / "last.ckpt").write_bytes(point[: len(point) // 2])
    with pytest.raises(InputError, match=r"last\.ckpt is not whole; .* resume=false"):
        pretrain(config_for(photos, out))
    (out / "last.ckpt").write_bytes(point)
    for torn in (b"classifier: {name: ", b"", None):
        (out / "config.yaml").unlink()
        if torn is not None:
            (out / "config.yaml").write_bytes(torn)
        with pytest.raises(
            InputError, match=r"holds last\.ckpt, but no config\.yaml that can be read; .* resume=false"
        ):
            pretrain(config_for(photos, out))
        (out / "config.yaml").write_bytes(settings)
    (out / "last.ckpt").write_bytes(b"")
    pretrain(config_for(photos, out, "resume=false"))


def test_a_run_can_start_from_another_ones_weights(config_for: Any, photos: Path, tmp_path: Path):
    first = pretrain(config_for(photos, tmp_path / "first"))
    words = [f"init={first}", "optimiser.lr=1e-12", "optimiser.weight_decay=0", "objective.area.weight=2"]
    second = pretrain(config_for(photos, tmp_path / "second", *words))
    before, after = load(first).state_dict(), load(second).state_dict()
    assert all(torch.allclose(before[key], after[key], rtol=1e-6, atol=1e-9) for key in before)
    third = load(pretrain(config_for(photos, tmp_path / "third", *words, "explainer.evidence=5"))).state_dict()
    assert [key for key in before if not torch.allclose(before[key], third[key], rtol=1e-6, atol=1e-9)] == [
        "skip.weight"
    ]
    assert float(third["skip.weight"]) == pytest.approx(5)
    with pytest.raises(InputError, match="holds another mask network"):
        pretrain(config_for(photos, tmp_path / "fourth", f"init={first}", "explainer.width=8"))
    first.rename(tmp_path / "gone")
    assert pretrain(config_for(photos, second, *words)) == second, "a run that goes on needs it no more"


def test_weights_that_read_other_stages_are_no_start(tmp_path: Path):
    about = ClassifierConfig("vit_tiny_patch16_224", "random", num_classes=5, input_size=64)
    classifier = about.build()
    settings = ExplainerConfig(name="vit", stages=[0, 1])
    save_checkpoint(tmp_path, settings.build(classifier), {"classifier": asdict(about), "explainer": asdict(settings)})
    start_from(settings.build(classifier), str(tmp_path))
    with pytest.raises(InputError, match="holds another mask network"):
        start_from(ExplainerConfig(name="vit", stages=[8, 11]).build(classifier), str(tmp_path))
