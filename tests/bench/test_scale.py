"""`ltx bench scale`: the estimate follows from the measurements, and several processes are measured."""

from __future__ import annotations

import re

import pytest

from ltx import InputError
from ltx.bench.scale import measure
from ltx.bench.settings import ScaleBench
from ltx.config.command_line import parse

TINY = ["models=[resnet10t]", "variants=[fp32]", "batch_size=2", "device=cpu", "processes=[]"]


def test_hours_and_price_from_a_given_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """3.6 million images at 1,000 images/s take one hour, as do two GPUs at half the efficiency."""
    words = ["rates.resnet10t=1000", "images=1800000", "epochs=2", "gpus=[1,2]", "efficiency=[1,0.5]", "price=3"]
    measure(parse(ScaleBench, [*TINY, *words], "bench", ""))
    printed = capsys.readouterr().out
    assert re.search(r"1\.00 h +3 \$ +1\.00 h +6 \$ +1000, given: resnet10t", printed)
    assert "3 US dollars per GPU hour; images/s per GPU relative to one GPU: 100% on 1, 50% on 2" in printed
    row = re.search(r"([\d.]+) +1\.00x +(\d+)% +([\d.]+) GiB +([\d.]+)  resnet10t, fp32", printed)
    assert row is not None
    assert float(row[1]) > 0
    assert 10 < int(row[2]) <= 100
    assert 0.1 < float(row[3]) < 20


def test_without_a_gpu_the_estimate_states_its_assumptions(capsys: pytest.CaptureFixture[str]) -> None:
    measure(parse(ScaleBench, [*TINY, "tflops=2", "gpus=[1]", "efficiency=[1]"], "bench", ""))
    printed = capsys.readouterr().out
    estimate = re.search(r"([\d.]+) h .* (\d+), assumed from ([\d.]+) GFLOP per image: resnet10t", printed)
    assert estimate is not None
    hours, rate, operations = map(float, estimate.groups())
    assert rate == pytest.approx(2e3 / operations, rel=0.02)
    assert hours == pytest.approx(10 * 1_281_167 / rate / 3600, rel=0.02)
    assert "one GPU sustains 2 TFLOP/s (tflops=…)" in printed


def test_numbers_of_gpus_and_efficiencies_must_match() -> None:
    with pytest.raises(InputError, match=r"efficiency=\[1\.0\] must have a number for each of gpus=\[1, 8, 64\]"):
        measure(parse(ScaleBench, [*TINY, "efficiency=[1]"], "bench", ""))


@pytest.mark.slow
def test_trainings_of_one_and_two_processes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["processes=[1,2]", "training=resnet10t", "training_steps=5"]
    measure(parse(ScaleBench, [*TINY[:-1], *words], "bench", ""))
    printed = capsys.readouterr().out
    assert "1 processes: " in printed
    assert re.search(r"2 processes: [\d.]+ images/s of resnet10t in training, \d+% of 2 x one; [\d.]+% of the", printed)
