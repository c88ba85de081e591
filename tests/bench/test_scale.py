"""`python -m ltx.bench scale`: its estimate follows from its figures, and several processes are measured."""

from __future__ import annotations

import re

import pytest

from ltx import InputError
from ltx.bench.scale import measure
from ltx.bench.settings import ScaleBench
from ltx.config.command_line import parse

TINY = ["models=[resnet10t]", "variants=[fp32]", "batch_size=2", "device=cpu", "processes=[]"]


def test_hours_and_money_from_a_given_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """3.6 million images at 1,000 a second are an hour; two GPUs at half the efficiency need it too."""
    words = ["rates.resnet10t=1000", "images=1800000", "epochs=2", "gpus=[1,2]", "efficiency=[1,0.5]", "price=3"]
    measure(parse(ScaleBench, [*TINY, *words], "bench", ""))
    told = capsys.readouterr().out
    assert re.search(r"1\.00 h +3 \$ +1\.00 h +6 \$ +1000, given: resnet10t", told)
    assert "3 US dollars for an hour of a GPU; images/s a GPU, of those on one: 100% on 1, 50% on 2" in told
    row = re.search(r"([\d.]+) +1\.00x +(\d+)% +([\d.]+) GiB +([\d.]+)  resnet10t, fp32", told)
    assert row is not None
    assert float(row[1]) > 0
    assert 10 < int(row[2]) <= 100
    assert 0.1 < float(row[3]) < 20


def test_without_a_gpu_the_estimate_says_what_it_assumes(capsys: pytest.CaptureFixture[str]) -> None:
    measure(parse(ScaleBench, [*TINY, "tflops=2", "gpus=[1]", "efficiency=[1]"], "bench", ""))
    told = capsys.readouterr().out
    estimate = re.search(r"([\d.]+) h .* (\d+), assumed from ([\d.]+) GFLOP each: resnet10t", told)
    assert estimate is not None
    hours, rate, operations = map(float, estimate.groups())
    assert rate == pytest.approx(2e3 / operations, rel=0.02)
    assert hours == pytest.approx(10 * 1_281_167 / rate / 3600, rel=0.02)
    assert "one sustains 2 TFLOP/s (tflops=…)" in told


def test_numbers_of_gpus_and_efficiencies_must_match() -> None:
    with pytest.raises(InputError, match=r"efficiency=\[1\.0\] must have a number for each of gpus=\[1, 8, 64\]"):
        measure(parse(ScaleBench, [*TINY, "efficiency=[1]"], "bench", ""))


@pytest.mark.slow
def test_trainings_of_one_and_two_processes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["processes=[1,2]", "training=resnet10t", "training_steps=5"]
    measure(parse(ScaleBench, [*TINY[:-1], *words], "bench", ""))
    told = capsys.readouterr().out
    assert "1 processes: " in told
    assert re.search(r"2 processes: [\d.]+ images/s of resnet10t in training, \d+% of 2 x one; [\d.]+% of the", told)
