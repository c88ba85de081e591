"""`ltx bench multiple`: selection of pairs, and explanations that match a photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ltx import InputError
from ltx.analysis.multiple_explanations import MultipleExplanations
from ltx.bench.multiple import _report, measure, sufficient_pairs
from ltx.bench.settings import MultipleBench
from ltx.classifier.classifier import Classifier
from ltx.config.command_line import parse
from tests.support.small_inputs import write_photographs

TINY = ["classifier.name=resnet10t", "classifier.weights=random", "classifier.num_classes=2"]
TINY += ["classifier.input_size=32", "device=cpu", "steps=2", "most=2", "share=0.5", "mosaics=2"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs", (f"{index}.png" for index in range(4)), (40, 40))


class Contrast(nn.Module):
    """The logit of class 0 is the larger contrast of the two halves."""

    num_classes = 2

    def forward(self, x: Tensor) -> Tensor:
        contrast = torch.stack([(part - 0.5).square().mean((1, 2, 3)) for part in x.chunk(2, 3)]).amax(0)
        return torch.stack([160 * contrast - 10, torch.zeros_like(contrast)], 1)


def test_each_half_of_a_pair_is_sufficient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of three striped photographs is faint: class 0, but with less than 0.9 of the others' probability."""
    for name, depth in (("one", 127), ("two", 127), ("faint", 65)):
        pixels = np.full((32, 32, 3), 127, np.int16)
        pixels[::2] += depth
        pixels[1::2] -= depth
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    config = parse(MultipleBench, ["share=0.9", "mosaics=3", f"images={tmp_path}"], "bench", "")
    classifier = Classifier(Contrast(), input_size=32)
    images, targets, tried = sufficient_pairs(classifier, config)
    assert tried == 3, "all three pairs have class 0"
    assert "damaged.png is not an image" in capsys.readouterr().out
    assert targets.tolist() == [0]
    assert float((images - 0.5).abs().min()) > 0.45, "the two photographs with high contrast"
    config.share = 0.5
    assert len(sufficient_pairs(classifier, config)[0]) == 3


def test_images_without_a_pair_raise_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    config = parse(MultipleBench, [f"images={tmp_path}"], "bench", "")
    with pytest.raises(InputError, match="none of 0 pairs"):
        sufficient_pairs(Classifier(Contrast(), input_size=32), config)


def test_pictures_are_written_and_numbers_printed(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(parse(MultipleBench, [*TINY, f"images={photographs}", f"out={tmp_path / 'out'}"], "bench", ""))
    assert "both photographs found by the first two explanations" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_both_photographs_are_found_only_if_an_explanation_lies_in_each(capsys: pytest.CaptureFixture[str]) -> None:
    masks = torch.zeros(3, 3, 4, 8)
    masks[0, 0, :, :3], masks[0, 1, :, 5:] = 1, 1  # left, right
    masks[1, 0, :, :3], masks[1, 1, 0, 3:5], masks[1, 2, :, 6:] = 1, 1, 1  # left, across, right
    masks[2, 0, :, 2:6] = 1  # across, and no other
    count = torch.tensor([2, 3, 1])
    nothing = torch.full((3, 3), 0.5)
    _report([MultipleExplanations(masks, nothing, nothing, count, torch.ones(3), torch.rand(3, 3, 4, 8), ["a"] * 3)])
    printed = capsys.readouterr().out
    assert "by the first two explanations: 1 of 3; by all of them: 2" in printed
    assert "0: 0, 1: 1, 2: 1, 3: 1" in printed
