"""INR pretraining: a run's checkpoint can be loaded and finetuned, and masks of a given area find a known answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ltx import Classifier, Fill, InputError, finetune, load
from ltx.explainers.inr import INRExplainer
from ltx.finetuning.training_defaults import trained_areas
from ltx.masking.area_sampling import SWEEP, AreaSampling
from ltx.objectives.objective import Objective
from ltx.objectives.settings import ObjectiveConfig
from ltx.pretraining.inr import INRPretraining
from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import OptimiserConfig
from ltx.results.building import SHOWN_AREA
from tests.support.deciding_square import Bright, images_with_square
from tests.support.small_trainings import metric_rows

SMALL_INR = [
    "explainer.name=inr",
    "explainer.width=32",
    "explainer.points=16",
    "data.batch_size=2",
    "trainer.max_steps=2",
    "trainer.validate_every=2",
    "trainer.overlays=1",
]


@pytest.fixture(scope="module")
def deterministic_classifiers() -> Any:
    """Random classifiers have the same weights each time they are built."""
    build = Classifier.__init__

    def seeded(self: Classifier, *args: Any, **kwargs: Any) -> None:
        torch.manual_seed(7)
        build(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "__init__", seeded)
        yield


def test_a_run_writes_an_explainer_that_can_be_finetuned(
    config_for: Any, tmp_path: Path, deterministic_classifiers: None
):
    out = run_pretraining(config_for("run", *SMALL_INR))
    validated = next(row for row in metric_rows(out) if row["val/kept"])
    shares = [float(validated[f"val/kept_{area}"]) for area in ("0.05", "0.1", "0.2", "0.5")]
    assert float(validated["val/kept"]) == pytest.approx(sum(shares) / 4, abs=1e-5)
    assert float(validated["val/mask_mean"]) == pytest.approx((0.05 + 0.1 + 0.2 + 0.5) / 4, abs=1e-3)
    explainer = load(out)
    assert isinstance(explainer, INRExplainer)
    assert trained_areas(explainer) == AreaSampling(2, 0.04, 0.6)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    explanation = finetune(explainer, images, steps=1)
    assert explanation.method == "inr"
    assert explanation.mask is not None
    assert torch.allclose(explanation.mask.mean((1, 2, 3)), torch.full((2,), SHOWN_AREA), atol=1e-3)
    written = explanation.save(tmp_path / "explained", ["a", "b"])
    assert [file.name for file in written] == ["a.png", "a.npz", "b.png", "b.npz"]
    with Image.open(tmp_path / "explained" / "b.areas.png") as picture:
        assert picture.width > 8 * picture.height
    with np.load(tmp_path / "explained" / "b.areas.npz") as sweep:
        assert sweep["masks"].shape == (len(SWEEP), 64, 64)
        assert np.allclose(sweep["masks"].mean((1, 2)) / 255, sweep["areas"], atol=0.01)
        assert explanation.by_area is not None
        assert np.allclose(sweep["kept"], explanation.by_area.sweep.kept[1].numpy())


def test_a_network_without_image_features_is_refused(config_for: Any):
    with pytest.raises(InputError, match=r"explainer\.trunk=none sees no image"):
        run_pretraining(config_for("run", *SMALL_INR, "explainer.trunk=none"))


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
    for _ in range(60):
        images, _ = images_with_square(8, generator)
        _, verdict = module.evaluate_objective(images, generator, module.training_areas(images, generator))
        adamw.zero_grad()
        verdict.loss.mean().backward()
        adamw.step()
    images, square = images_with_square(20, generator)
    with torch.no_grad():
        masks = explainer.explain(images).at(64 / 1024).mask
    assert masks is not None
    assert float((masks * square).sum() / masks.sum()) > 0.8
