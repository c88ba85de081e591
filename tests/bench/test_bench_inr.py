"""`ltx bench inr`: passes of each method, and masks and maps at the same areas."""

from __future__ import annotations

import re

import pytest
import torch

from ltx import Classifier, InputError
from ltx.attribution.attribute import attribute
from ltx.bench.inr import measure
from ltx.bench.passes import passes_counted
from ltx.bench.settings import INRBench
from ltx.config.command_line import parse

TINY = ["classifier.name=resnet10t", "classifier.weights=random", "classifier.num_classes=5"]
TINY += ["classifier.input_size=32", "count=2", "steps=2", "finetuning_steps=1", "extremal_steps=3"]
TINY += ["areas=[0.1,0.3]", "device=cpu"]


def test_passes_and_masks_of_each_method(capsys: pytest.CaptureFixture[str]) -> None:
    measure(parse(INRBench, [*TINY, "compare=[gradcam,random]"], "bench", ""))
    printed = capsys.readouterr().out
    passes = dict(re.findall(r"^(\S.*): ([\d.]+) passes per image", printed, re.MULTILINE))
    # Fitting an INR samples 4 areas per step and classifies kept pixels; finetuning also classifies removed pixels;
    # extremal perturbation fits 2 areas.
    assert passes["amortised, one pass"] == "1.0"
    assert passes["fitted from scratch, 2 steps"] == f"{1 + 2 * 4:.1f}"
    assert passes["amortised, 1 steps"] == f"{1 + 4 * 2:.1f}", "kept and removed pixels, the default objective"
    assert passes["extremal perturbation, 3 steps"] == f"{3 * 2:.1f}"
    assert passes["gradcam"] == "1.0", "the layer is already known"
    assert passes["random"] == "0.0"
    assert printed.count("kept probability") == 6
    assert printed.count("s one by one") == 4
    misses = [float(value) for value in re.findall(r"\|mean - area\| ([\d.]+)", printed)]
    assert max(misses[:3]) <= 1e-4
    assert misses[3] > 0.1, "three steps do not converge"


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_partial_passes_are_not_counted(name: str) -> None:
    classifier = Classifier(name, weights="random", num_classes=5, input_size=64)
    images = torch.rand(2, 3, 64, 64)
    attribute("iia2", classifier, images, 0, steps=1)  # detects the layers
    with passes_counted(classifier) as counter:
        classifier(images)
        attribute("iia2", classifier, images, 0, steps=3)
    assert counter[0] == 2 * (1 + 4), "the points of the path, including both ends"
    first = next(module for module in classifier.model.modules() if not list(module.children()))
    assert "forward" not in vars(first)


def test_an_unknown_method_raises_an_error() -> None:
    with pytest.raises(InputError, match="did you mean one_pass"):
        measure(parse(INRBench, [*TINY, "ways=[onepass]"], "bench", ""))
