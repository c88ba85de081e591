"""`python -m ltx.bench inr`: each way is run and counted, and masks and maps are cut at the same areas."""

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


def test_each_way_is_counted_and_its_masks_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    measure(parse(INRBench, [*TINY, "compare=[gradcam,random]"], "bench", ""))
    told = capsys.readouterr().out
    passes = dict(re.findall(r"^(\S.*): ([\d.]+) passes an image", told, re.MULTILINE))
    # 4 areas a step where an INR is fitted, once both kept and removed; 2 areas where the others are found.
    assert passes["amortised, one pass"] == "1.0"
    assert passes["fitted from scratch, 2 steps"] == f"{1 + 2 * 4:.1f}"
    assert passes["amortised, 1 steps"] == f"{1 + 4 * 2:.1f}", "kept and removed, as without a checkpoint's objective"
    assert passes["extremal perturbation, 3 steps"] == f"{3 * 2:.1f}"
    assert passes["gradcam"] == "1.0", "its layer was found when the method was chosen"
    assert passes["random"] == "0.0"
    assert told.count("kept probability") == 6
    assert told.count("s one by one") == 4
    misses = [float(value) for value in re.findall(r"\|mean - area\| ([\d.]+)", told)]
    assert max(misses[:3]) <= 1e-4
    assert misses[3] > 0.1, "three steps are no optimisation"


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_layers_after_a_cut_are_no_pass(name: str) -> None:
    classifier = Classifier(name, weights="random", num_classes=5, input_size=64)
    images = torch.rand(2, 3, 64, 64)
    attribute("iia2", classifier, images, 0, steps=1)  # finds the layers
    with passes_counted(classifier) as seen:
        classifier(images)
        attribute("iia2", classifier, images, 0, steps=3)
    assert seen[0] == 2 * (1 + 4), "the points of the path, both ends among them"
    first = next(module for module in classifier.model.modules() if not list(module.children()))
    assert "forward" not in vars(first)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean one_pass"):
        measure(parse(INRBench, [*TINY, "ways=[onepass]"], "bench", ""))
