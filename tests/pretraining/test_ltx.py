"""LTX pretraining: it learns a known answer, refuses what cannot be, and stops on NaN."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from ltx import Classifier, Fill, InputError, load
from ltx.explainers.settings import ExplainerConfig
from ltx.objectives.objective import Objective
from ltx.pretraining.callbacks import CollapseWarning
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.mosaics import Own, mosaics
from ltx.pretraining.run import pretrain
from ltx.pretraining.settings import OptimiserConfig
from ltx.runtime.seeds import row_generators
from tests.support.small_inputs import taught_by_gradcam


def test_a_run_writes_the_contract(config_for: Any, photos: Path, tmp_path: Path):
    out = pretrain(config_for(photos, tmp_path / "run"))
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
    rows = list(csv.DictReader((out / "metrics.csv").open()))
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


def test_a_teacher_is_asked_once_and_then_annealed_away(
    config_for: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = taught_by_gradcam(tmp_path)
    out = pretrain(config_for(photos, tmp_path / "run", *words))
    assert len(list((tmp_path / "maps").glob("*.npz"))) == 8  # the training images, and not the two held out
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    training = [row for row in rows if row["train/loss"]]
    assert [bool(row["train/teacher"]) for row in training] == [True] * 3 + [False] * 3
    assert "val/teacher" not in rows[0]
    weights = [5, 10 / 3, 5 / 3, 0, 0, 0]
    for row, weight in zip(training, weights, strict=True):
        terms = {"keep": 1, "remove": 1, "area": 4, "smoothness": 0.1, "teacher": weight}
        total = sum(scale * float(row[f"train/{name}"] or 0) for name, scale in terms.items())
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5)
    assert "taught by `gradcam`" in (out / "README.md").read_text()

    def asked_again(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("ltx.attribution.teacher_maps.attribute", asked_again)
    again = pretrain(config_for(photos, tmp_path / "again", *words))
    first, second = load(out).state_dict(), load(again).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_teacher_says_nothing_of_mosaics_and_of_other_classes():
    classifier = Classifier("resnet18", weights="random", num_classes=6, input_size=64)
    module = LTXPretraining(
        ExplainerConfig().build(classifier), Objective(), Fill("black"), OptimiserConfig(), max_steps=10
    )
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    predicted = classifier(images).argmax(1)
    explained = predicted.clone()
    explained[1] = (explained[1] + 1) % 6
    shown = torch.arange(4).view(4, 1, 1).repeat(1, 2, 2)
    shown[2, 0, 1] = 3
    own = Own(shown, torch.tensor([False, False, True, False]), classifier(images[2:3]))
    judged, _ = module.judge(images, torch.Generator().manual_seed(0), None, own, maps, explained)
    assert judged.teacher is not None
    assert torch.equal(judged.teacher[[0, 3]], maps[[0, 3]])
    assert not judged.teacher[[1, 2]].any()


@pytest.mark.parametrize(
    ("word", "told"),
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
def test_a_number_out_of_its_range_is_one_line(config_for: Any, photos: Path, tmp_path: Path, word: str, told: str):
    with pytest.raises(InputError) as refused:
        config_for(photos, tmp_path / "run", word)
    line = str(refused.value).replace(", ", ",").replace(".0;", ";")
    assert line.startswith(word.removesuffix(".0"))
    assert told in str(refused.value)
    assert "\n" not in line


@pytest.mark.parametrize("word", ["trainer.devices=0", "trainer.devices=abc", "trainer.devices=[0,0]"])
def test_impossible_devices_are_one_line(config_for: Any, photos: Path, tmp_path: Path, word: str):
    with pytest.raises(InputError, match=r"^trainer\.accelerator=cpu, trainer\.devices=.*; give a number of devices"):
        pretrain(config_for(photos, tmp_path / "run", word))


def test_an_objective_of_nothing_is_refused(config_for: Any, photos: Path, tmp_path: Path):
    words = [f"objective.{name}.weight=0" for name in ("keep", "remove", "area")]
    with pytest.raises(InputError, match=r"every objective\.\*\.weight is 0"):
        pretrain(config_for(photos, tmp_path / "run", *words, "objective.smoothness.weight=[[0,0],[1,0]]"))


def test_a_training_that_is_idle_for_a_while_is_refused(config_for: Any, photos: Path, tmp_path: Path):
    terms = ("keep", "remove", "area", "smoothness")
    words = [f"objective.{name}.weight=[[0,1],[0.25,0],[0.5,0],[1,1]]" for name in terms]
    with pytest.raises(InputError, match=r"every objective\.\*\.weight is 0 at 0\.25 of the training"):
        pretrain(config_for(photos, tmp_path / "run", *words))


@pytest.mark.parametrize("word", ["data.mosaic=0", "explainer.conditioned=false", "data.batch_size=1"])
def test_elsewhere_without_mosaics_is_refused(config_for: Any, photos: Path, tmp_path: Path, word: str):
    with pytest.raises(InputError, match=r"objective\.elsewhere\.weight above 0 needs mosaics"):
        pretrain(config_for(photos, tmp_path / "run", "data.mosaic=0.5", "objective.elsewhere.weight=1", word))


def test_a_run_can_do_without_overlays(config_for: Any, photos: Path, tmp_path: Path):
    out = pretrain(config_for(photos, tmp_path / "run", "trainer.overlays=0", "trainer.max_steps=1"))
    assert not (out / "overlays").exists()
    assert "| kept |" in (out / "README.md").read_text()


def test_nan_stops_with_the_step_and_the_term(
    config_for: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ltx.objectives.remove import Remove

    call, seen = Remove.__call__, []

    def poisoned(self: Remove, batch: Any, logits: Any) -> Tensor:
        seen.append(1)
        return call(self, batch, logits) * (float("nan") if len(seen) == 6 else 1.0)

    monkeypatch.setattr(Remove, "__call__", poisoned)
    with pytest.raises(
        InputError, match=r"the term remove is not finite at step \d, for the images .*\.png.*last checkpoint"
    ):
        pretrain(config_for(photos, tmp_path / "run"))
    explainer = load(tmp_path / "run")
    assert all(value.isfinite().all() for value in explainer.state_dict().values())


class Bright(nn.Module):
    """Class 1 if the brightest red lies in the picture, else class 0: one bright square decides."""

    num_classes = 2

    def forward(self, x: Tensor) -> Tensor:
        evidence = 40 * nn.functional.avg_pool2d(x[:, 0], 8).amax((1, 2)) - 20
        return torch.stack([-evidence, evidence], 1)


def test_it_finds_the_square_that_decides():
    classifier = Classifier(Bright(), input_size=32)
    torch.manual_seed(0)
    explainer = ExplainerConfig(name="unet", trunk="resnet10t", conditioned=False).build(classifier)
    module = LTXPretraining(
        explainer, Objective(), Fill("black"), OptimiserConfig(lr=3e-3, trunk_lr=1e-3), max_steps=120, mosaic=0
    )
    configured = module.configure_optimizers()
    adamw, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        images = 0.3 * torch.rand(count, 3, 32, 32, generator=generator)
        where = torch.zeros(count, 1, 32, 32)
        corners = torch.randint(0, 4, (count, 2), generator=generator) * 8
        for index, (y, x) in enumerate(corners.tolist()):
            where[index, :, y : y + 8, x : x + 8] = 1
        return torch.where(where.bool(), torch.ones(()), images), where

    for _ in range(120):
        images, _ = draw(8)
        _, verdict = module.judge(images, generator)
        adamw.zero_grad()
        verdict.loss.mean().backward()
        adamw.step()
        schedule.step()
    images, where = draw(16)
    mask = explainer.eval()(images).detach()
    inside = (mask * where).sum((1, 2, 3)) / where.sum((1, 2, 3))
    outside = (mask * (1 - where)).sum((1, 2, 3)) / (1 - where).sum((1, 2, 3))
    assert float(inside.mean()) > 0.5
    assert float(outside.mean()) < 0.25


def test_the_step_shows_each_image_once_whole_and_each_composite_once():
    classifier = Classifier("resnet18", weights="random", num_classes=6, input_size=64)
    shown: list[int] = []
    explainer = ExplainerConfig().build(classifier)
    classifier.model.conv1.register_forward_hook(lambda module, inputs, output: shown.append(len(output)))
    module = LTXPretraining(explainer, Objective(), Fill("black"), OptimiserConfig(), max_steps=10)
    module.judge(torch.rand(3, 3, 64, 64), torch.Generator().manual_seed(0))
    assert shown[0] == 3
    assert sum(shown[1:]) == 6  # kept and removed


def test_half_a_batch_is_the_half_of_the_batch():
    """A global batch is the same on any number of devices: mosaics and fills depend on each image's place."""
    images, positions = torch.rand(8, 3, 16, 16), torch.arange(100, 108)
    fill = Fill("random")

    def drawn(rows: slice) -> list[Tensor]:
        generators = row_generators(3, positions[rows])
        made = mosaics(images[rows], 0.5, generators)
        return [made.images, made.mixed, fill(made.images, generators)]

    whole, parts = drawn(slice(None)), [drawn(slice(0, 4)), drawn(slice(4, 8))]
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(whole, zip(*parts, strict=True), strict=True))
    assert 0 < int(whole[1].sum()) < 8


def test_warm_up_and_cosine():
    schedule = OptimiserConfig(warmup=0.1, floor=0.02)
    assert schedule.factor(0.05) == pytest.approx(0.5)
    assert schedule.factor(0.1) == pytest.approx(1)
    assert schedule.factor(0.55) == pytest.approx(0.51)
    assert schedule.factor(1) == pytest.approx(0.02)


def test_collapse_is_told_with_its_mend():
    def trainer(mean: float, spread: float) -> Any:
        found = {"val/mask_mean": torch.tensor(mean), "val/mask_spread": torch.tensor(spread)}
        return SimpleNamespace(sanity_checking=False, callback_metrics=found, global_step=3)

    for mean, mend in ((0.01, "lower"), (0.99, "raise")):
        with pytest.warns(UserWarning, match=rf"step 3: the masks have collapsed .*; {mend} objective\.area\.weight"):
            CollapseWarning().on_validation_end(trainer(mean, 0.001), None)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CollapseWarning().on_validation_end(trainer(0.4, 0.3), None)  # type: ignore[arg-type]
