"""`ltx bench attribute`: errors and numbers of passes of each variant."""

import pytest

from ltx.bench.attribute import measure
from ltx.bench.settings import AttributeBench
from ltx.config.command_line import parse


def test_ratios_errors_and_passes_are_printed(capsys):
    words = ["classifier.name=vit_tiny_patch16_224", "classifier.weights=random", "classifier.input_size=48"]
    words += ["classifier.num_classes=5", "count=2", "looped=2", "steps=2", "repeats=1", "device=cpu"]
    measure(parse(AttributeBench, words, "bench", ""))
    lines = capsys.readouterr().out.splitlines()
    exact = next(line for line in lines if "exact:" in line)
    assert "passes 3.0 / 9.0 / 9.0" in exact
    assert float(exact.split("differs by ")[1].split()[0]) == pytest.approx(0, abs=1e-4)
    assert "exact gradients need 3 / 9 / 9" in lines[-1]
