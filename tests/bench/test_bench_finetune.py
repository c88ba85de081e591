"""`ltx bench finetune`: the masked images of a step are counted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ltx import Classifier, InputError
from ltx.bench.finetune import measure
from ltx.bench.settings import FinetuneBench
from ltx.checkpoints.folder import save_checkpoint
from ltx.cli.main import BENCHMARKS
from ltx.config.command_line import parse
from ltx.explainers.unet import UNetExplainer


@pytest.mark.parametrize(("ranking", "masked_images"), [(0.0, 2), (4.0, 4)])
def test_masked_images_of_a_step_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ranking: float, masked_images: int
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=5).state_dict(), weights)
    settings = {"name": "resnet10t", "weights": str(weights), "num_classes": 5, "input_size": 64}
    config = {
        "classifier": settings,
        "explainer": {"name": "unet"},
        "objective": {"ranking": {"weight": ranking}},
    }
    save_checkpoint(tmp_path / "explainer", UNetExplainer(Classifier(**settings)), config, "")
    options = [
        f"checkpoint={tmp_path / 'explainer'}",
        "count=2",
        "steps=2",
        "repeats=1",
        "device=cpu",
        "precision=bf16",
    ]
    measure(parse(FinetuneBench, options, "bench", ""))
    printed = capsys.readouterr().out
    assert "resnet10t in bf16," in printed
    assert "finetune" in BENCHMARKS
    assert not {"passes", "timing"} & set(BENCHMARKS), "these modules are not benchmarks"
    with pytest.raises(InputError, match="must be positive"):
        measure(parse(FinetuneBench, [*options, "steps=0"], "bench", ""))
    assert re.search(
        rf"a step costs [\d.]+ x that bound, [\d.]+ x the passes over its {masked_images} masked images", printed
    )
