"""INR pretraining: it runs by the command line's schema, comes back, is finetuned, and learns a known answer."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ltx import Classifier, Fill, InputError, finetune, load
from ltx.config.command_line import parse
from ltx.explainers.inr import INRExplainer
from ltx.explainers.mask_network import AREA
from ltx.explainers.settings import ExplainerConfig
from ltx.finetuning.finetune import trained_areas
from ltx.masking.area_sampling import SWEEP, AreaSampling
from ltx.objectives.objective import Objective
from ltx.objectives.settings import ObjectiveConfig
from ltx.pretraining.callbacks import Overlays
from ltx.pretraining.inr import INRPretraining
from ltx.pretraining.run import pretrain
from ltx.pretraining.settings import OptimiserConfig, TrainConfig
from ltx.results.explanation import Explanation
from ltx.results.pictures import overlay_grid
from tests.support.small_inputs import write_photographs


def test_a_run_trains_is_loaded_again_and_finetuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    build = Classifier.__init__

    def seeded(self: Classifier, *args: object, **kwargs: object) -> None:
        torch.manual_seed(7)
        build(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Classifier, "__init__", seeded)
    photos = write_photographs(tmp_path / "photos", (f"{index}.png" for index in range(6)), (72, 80), cells=(5, 5))
    words = [
        "classifier.name=resnet18",
        "classifier.weights=random",
        "classifier.num_classes=6",
        "classifier.input_size=64",
        "explainer.name=inr",
        "explainer.nested=true",
        "explainer.width=32",
        "explainer.points=16",
        "areas.count=2",
        "areas.high=0.6",
        "fill=blur",
        f"data.images={photos}",
        "data.batch_size=2",
        "data.workers=0",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        "trainer.max_steps=2",
        "trainer.validate_every=2",
        "trainer.log_every=1",
        "trainer.overlays=1",
        f"out={tmp_path / 'run'}",
    ]
    out = pretrain(parse(TrainConfig, words, "train.py", ""))
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    validated = next(row for row in rows if row["val/kept"])
    shares = [float(validated[f"val/kept_{area}"]) for area in ("0.05", "0.1", "0.2", "0.5")]
    assert float(validated["val/kept"]) == pytest.approx(sum(shares) / 4, abs=1e-5)
    assert float(validated["val/mask_mean"]) == pytest.approx((0.05 + 0.1 + 0.2 + 0.5) / 4, abs=1e-3)
    explainer = load(out)
    assert isinstance(explainer, INRExplainer)
    assert trained_areas(explainer) == AreaSampling(2, 0.02, 0.6)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = finetune(explainer, images, steps=1)
    assert found.method == "inr"
    assert found.mask is not None
    assert torch.allclose(found.mask.mean((1, 2, 3)), torch.full((2,), AREA), atol=1e-3)
    written = found.save(tmp_path / "explained", ["a", "b"])
    assert [file.name for file in written] == ["a.png", "a.npz", "b.png", "b.npz"]
    with Image.open(tmp_path / "explained" / "b.areas.png") as picture:
        assert picture.width > 8 * picture.height
    with np.load(tmp_path / "explained" / "b.areas.npz") as sweep:
        assert sweep["masks"].shape == (len(SWEEP), 64, 64)
        assert np.allclose(sweep["masks"].mean((1, 2)) / 255, sweep["areas"], atol=0.01)
        assert np.allclose(sweep["kept"], found.by_area.sweep.kept[1].numpy())
    blind = [word for word in words if not word.startswith("out=")]
    with pytest.raises(InputError, match=r"explainer\.trunk=none sees no image"):
        pretrain(parse(TrainConfig, [*blind, "explainer.trunk=none", f"out={tmp_path / 'blind'}"], "train.py", ""))


class Bright(nn.Module):
    """Class 1 if the brightest red lies in the picture, else class 0: one bright square decides."""

    num_classes = 2

    def forward(self, x: Tensor) -> Tensor:
        evidence = 40 * nn.functional.avg_pool2d(x[:, 0], 8).amax((1, 2)) - 20
        return torch.stack([-evidence, evidence], 1)


def test_one_pass_finds_the_square_that_decides():
    classifier = Classifier(Bright(), input_size=32)
    torch.manual_seed(0)
    explainer = INRExplainer(
        classifier, trunk="resnet10t", conditioned=False, nested=True, width=32, depth=3, points=16
    )
    module = INRPretraining(
        AreaSampling(2, 0.03, 0.3),
        explainer=explainer,
        objective=Objective(ObjectiveConfig()),
        fill=Fill("black"),
        optimiser=OptimiserConfig(lr=3e-3, trunk_lr=1e-3),
        max_steps=60,
        mosaic=0,
    )
    adamw = module.configure_optimizers()["optimizer"]
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        images = 0.3 * torch.rand(count, 3, 32, 32, generator=generator)
        where = torch.zeros(count, 1, 32, 32)
        for index, (y, x) in enumerate((torch.randint(0, 4, (count, 2), generator=generator) * 8).tolist()):
            images[index, 0, y : y + 8, x : x + 8] = 1
            where[index, :, y : y + 8, x : x + 8] = 1
        return images, where

    for _ in range(60):
        images, _ = draw(8)
        _, verdict = module.judge(images, generator, module.areas_in_training(images, generator))
        adamw.zero_grad()
        verdict.loss.mean().backward()
        adamw.step()
    images, where = draw(20)
    with torch.no_grad():
        masks = explainer.explain(images).at(64 / 1024).mask
    assert masks is not None
    assert float((masks * where).sum() / masks.sum()) > 0.8


def test_pictures_of_the_training_show_the_mask_that_their_numbers_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    classifier = Classifier("resnet18", weights="random", num_classes=5, input_size=64)
    explainer = ExplainerConfig(name="inr", width=32, depth=2, points=16).build(classifier).eval()
    drawn: list[torch.Tensor] = []
    told: list[Explanation] = []

    def grid(images: torch.Tensor, masks: torch.Tensor, titles: list[str]) -> Any:
        drawn.append(masks)
        return overlay_grid(images, masks, titles)

    monkeypatch.setattr("ltx.pretraining.callbacks.overlay_grid", grid)
    overlays = Overlays(tmp_path, explainer, torch.rand(2, 3, 64, 64), lambda found, _: told.append(found), "blur")
    trainer = SimpleNamespace(sanity_checking=False, global_step=3)
    overlays.on_validation_end(trainer, SimpleNamespace(device="cpu"))  # type: ignore[arg-type]
    assert (tmp_path / "step_000003.png").is_file()
    assert told[0].fill == "blur"
    assert told[0].mask is not None
    assert torch.equal(drawn[0], told[0].mask)
    assert not torch.equal(drawn[0], told[0].maps)
