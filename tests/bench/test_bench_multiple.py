"""`python -m ltx.bench multiple`: which pairs it takes, and what it counts as found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ltx import InputError
from ltx.bench.multiple import BenchConfig, _report, measure, sufficient_pairs
from ltx.classifier import Classifier
from ltx.config import parse
from ltx.multiple import MultipleExplanations

TINY = ["classifier.name=resnet10t", "classifier.weights=random", "classifier.num_classes=2"]
TINY += ["classifier.input_size=32", "device=cpu", "steps=2", "most=2", "share=0.5", "mosaics=2"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def test_pairs_are_sufficient_on_either_side_and_pictures_are_written(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parse(BenchConfig, [*TINY, f"images={photographs}", f"out={tmp_path / 'out'}"], "bench", "")
    torch.manual_seed(0)
    classifier = config.classifier.build()
    images, targets, tried = sufficient_pairs(classifier, config)
    assert images.shape == (2, 3, 32, 32)
    assert 2 <= tried <= 6, "four photographs make six pairs at most"
    assert bool((classifier(images).argmax(1) == targets).all())
    measure(config)
    assert "both photographs found by the first two explanations" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_too_few_pairs_are_named(photographs: Path) -> None:
    config = parse(BenchConfig, [*TINY, f"images={photographs}", "mosaics=7"], "bench", "")
    with pytest.raises(InputError, match="mosaics=7 are asked for"):
        sufficient_pairs(Classifier("resnet10t", weights="random", num_classes=2, input_size=32), config)


def test_both_are_found_only_if_one_explanation_lies_in_each(capsys: pytest.CaptureFixture[str]) -> None:
    masks = torch.zeros(3, 3, 4, 8)
    masks[0, 0, :, :3], masks[0, 1, :, 5:] = 1, 1  # left, right
    masks[1, 0, :, :3], masks[1, 1, 0, 3:5], masks[1, 2, :, 6:] = 1, 1, 1  # left, across, right
    masks[2, 0, :, 2:6] = 1  # across, and no other
    count = torch.tensor([2, 3, 1])
    nothing = torch.full((3, 3), 0.5)
    _report([MultipleExplanations(masks, nothing, nothing, count, torch.ones(3), torch.rand(3, 3, 4, 8), ["a"] * 3)])
    told = capsys.readouterr().out
    assert "by the first two explanations: 1 of 3; by all of them: 2" in told
    assert "0: 0, 1: 1, 2: 1, 3: 1" in told
