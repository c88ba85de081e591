"""The table of models and jobs: a sample in the fast tests, all of it in the slow ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm

from ltx.bench.model_cases import OWN_MODULES, TIMM, TORCHVISION, TRANSFORMERS, cases
from ltx.bench.models import JOBS, YES, Row, markdown, measure, run_case
from ltx.bench.settings import ModelsBench

SAMPLE = [
    "resnet18",
    "vit_tiny_patch16_224",
    "ViT",
    "Swin",
    "ResNet",
    *OWN_MODULES,
]

REFUSED = {
    "returns probabilities": "returns probabilities, not logits",
    "forward under no_grad": "without a gradient to the pixels",
}


def rows(names: list[str]) -> list[Row]:
    return [run_case(case) for case in cases() if case.name in names]


def test_the_table_is_as_large_as_promised() -> None:
    assert len(set(TIMM)) >= 80
    assert len(set(TORCHVISION)) >= 12
    assert len(set(TRANSFORMERS)) >= 8
    assert len(set(OWN_MODULES)) >= 10
    assert [name for name in TIMM if not timm.is_model(name)] == []


@pytest.mark.parametrize("name", SAMPLE)
def test_sample_of_the_table(name: str) -> None:
    for row in rows([name]):
        assert row.tracebacks == []
        if name in REFUSED:
            assert REFUSED[name] in row.cells["classify"]
            continue
        assert [row.cells[job] for job in ("classify", "integrated gradients", "evaluate")] == [YES] * 3
        if name == "torch.jit.script":
            assert "cannot be hooked; give the nn.Module itself" in row.cells["gradcam"]
            assert "cannot be hooked; give the nn.Module itself" in row.cells["train"]
        else:
            assert [row.cells[job] for job in ("gradcam", "train", "finetune")] == [YES] * 3
        is_vit = name in ("vit_tiny_patch16_224", "ViT")
        assert (row.cells["gae"] == YES) == is_vit


def test_refused_jobs_have_a_numbered_note() -> None:
    table = markdown(rows(["3 channels", "returns probabilities"]))
    line = next(line for line in table.splitlines() if line.startswith("| returns probabilities"))
    assert line.startswith("| returns probabilities | no [")
    assert line.count("–") == len(JOBS) - 1
    assert "returns probabilities, not logits" in table.partition("## Notes")[2]


@pytest.mark.slow
def test_the_whole_table_has_no_traceback(tmp_path: Path) -> None:
    measure(ModelsBench(out=str(tmp_path / "models.md")))
    assert (tmp_path / "models.md").read_text().count(f"| {YES} |") > 100
