"""What a longer training would give, from curves whose continuation is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ltx.pretraining.forecast import forecast, gains

STEPS = list(range(100, 1100, 100))


def curve(step: float) -> float:
    return 40 - 100 * step**-0.5


def test_a_power_law_is_continued():
    found = gains(STEPS, [curve(step) for step in STEPS])
    for gain, times in zip(found, (2, 4), strict=True):
        assert gain.times == times
        truth = curve(1000 * times) - curve(1000)
        assert gain.mean == pytest.approx(truth, abs=0.1)
        assert abs(gain.mean - truth) <= gain.half_width + 0.02


@pytest.mark.parametrize("count", [300, 1000])
def test_any_number_of_validations_gives_a_number(count: int):
    """Weights are powers of the noise with exponents in the hundreds."""
    random = np.random.default_rng(0)
    steps = list(range(100, 100 * count + 100, 100))
    for scale in (1e-3, 1e3):
        scores = [scale * (curve(step) + random.normal()) for step in steps]
        assert all(np.isfinite(gain).all() for gain in gains(steps, scores))


def test_the_interval_contains_the_truth_of_noisy_curves():
    hits, widths = 0, []
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(0, 0.3, len(STEPS))
        gain = gains(STEPS, [curve(step) + more for step, more in zip(STEPS, noise, strict=True)])[0]
        hits += abs(gain.mean - (curve(2000) - curve(1000))) <= gain.half_width
        widths.append(gain.half_width)
    assert hits >= 88
    assert np.mean(widths) < 1.5


def test_a_flat_curve_gains_nothing():
    noise = np.random.default_rng(0).normal(0, 0.3, len(STEPS))
    for gain in gains(STEPS, [30 + more for more in noise]):
        assert abs(gain.mean) < gain.half_width


def test_few_validations_give_no_forecast(tmp_path: Path):
    assert gains([1, 2, 3, 4], [1, 2, 3, 4]) == []
    assert forecast(tmp_path / "metrics.csv") == ""
    (tmp_path / "metrics.csv").write_text("step,val/order\n10,0.2\n20,\n")
    assert forecast(tmp_path / "metrics.csv") == ""
    rows = "".join(f"{step},{curve(step) / 100}\n" for step in STEPS)
    (tmp_path / "metrics.csv").write_text("step,val/order\n" + rows)
    assert "36.8; expected gain of a longer training, with 2 times: +0.9 ±" in forecast(tmp_path / "metrics.csv")
