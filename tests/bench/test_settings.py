"""Settings of benchmarks that cannot be measured are refused before any work, with the value and the fix."""

from __future__ import annotations

import pytest

from ltx import InputError
from ltx.bench.settings import DataBench, GPUBench, ScaleBench
from ltx.config.command_line import parse


@pytest.mark.parametrize(
    ("schema", "word", "text"),
    [
        (DataBench, "repeats=0", "repeats=0; give 1 or more"),
        (DataBench, "batch_size=0", "batch_size=0; give a number from 1 to 64"),
        (DataBench, "batch_size=65", "batch_size=65; give a number from 1 to 64"),
        (DataBench, "count=0", "count=0; give 1 or more"),
        (DataBench, "workers=-1", "workers=-1; give 0 or more"),
        (DataBench, "crop_scale=[0.5]", r"crop_scale=\[0.5\]; give two shares of the area, 0 < low <= high <= 1"),
        (DataBench, "crop_scale=[0.5,0.2]", r"crop_scale=\[0.5, 0.2\]; give two shares"),
        (ScaleBench, "repeats=-1", "repeats=-1; give 1 or more"),
        (ScaleBench, "batch_size=0", "batch_size=0; give 1 or more"),
        (ScaleBench, "processes=[0]", r"processes=\[0\]; give numbers of 1 or more"),
        (GPUBench, "repeats=0", "repeats=0; give 1 or more"),
        (
            GPUBench,
            "processes=[1,3]",
            r"processes=\[1, 3\]; give numbers that divide the 8 images of a step: 1, 2, 4, 8",
        ),
        (GPUBench, "processes=[0]", r"processes=\[0\]; give numbers that divide"),
    ],
)
def test_settings_that_cannot_be_measured(schema: type, word: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        parse(schema, [word], "bench", "")
