"""Pictures of the masks during training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ltx import Classifier
from ltx.explainers.settings import ExplainerConfig
from ltx.pretraining.callbacks.overlays import Overlays
from ltx.pretraining.run import run_pretraining
from ltx.results.explanation import Explanation
from ltx.results.pictures import overlay_grid


def test_pictures_show_the_mask_that_their_numbers_refer_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    classifier = Classifier("resnet18", weights="random", num_classes=5, input_size=64)
    explainer = ExplainerConfig(name="inr", width=32, depth=2, points=16).build(classifier).eval()
    drawn: list[torch.Tensor] = []
    logged: list[Explanation] = []

    def grid(images: torch.Tensor, masks: torch.Tensor, titles: list[str]) -> Any:
        drawn.append(masks)
        return overlay_grid(images, masks, titles)

    monkeypatch.setattr("ltx.pretraining.callbacks.overlays.overlay_grid", grid)
    images = torch.rand(2, 3, 64, 64)
    overlays = Overlays(tmp_path, explainer, images, lambda explanation, _: logged.append(explanation), "blur")
    trainer: Any = SimpleNamespace(sanity_checking=False, global_step=3)
    module: Any = SimpleNamespace(device="cpu")
    overlays.on_validation_end(trainer, module)
    assert (tmp_path / "step_000003.png").is_file()
    assert logged[0].fill == "blur"
    assert logged[0].mask is not None
    assert torch.equal(drawn[0], logged[0].mask)
    assert not torch.equal(drawn[0], logged[0].maps)


def test_overlays_can_be_turned_off(config_for: Any):
    out = run_pretraining(config_for("run", "trainer.overlays=0", "trainer.max_steps=1"))
    assert not (out / "overlays").exists()
    assert "| kept |" in (out / "README.md").read_text()
