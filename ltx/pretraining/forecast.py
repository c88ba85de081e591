"""What a longer training would be expected to give, from the validations of a finished one."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

START = 0.15
"""Validations before this share of the steps are left out: the rate was still warming up, or had just done so."""

FEWEST = 5
"""Validations that a forecast needs: the curve has three parameters."""

EXPONENTS = np.geomspace(0.1, 2.0, 25)
"""Exponents of the power law that are considered."""


class Gain(NamedTuple):
    """Expected gain of a longer training.

    Attributes:
        times: its length, as a multiple of the finished one's.
        mean: what is added to the score.
        half_width: half of the 95 % interval of `mean`.
    """

    times: int
    mean: float
    half_width: float


def gains(steps: Sequence[int], scores: Sequence[float], times: Sequence[int] = (2, 4)) -> list[Gain]:
    """Extrapolate a validation curve by a power law, `score = a - b steps^-c`.

    For each exponent c the least squares estimate of b, and its variance, follow from the residuals. Exponents are
    averaged with the weights that the residuals give them (the marginal likelihood under a flat prior). The curve is
    that of one training: a longer one, whose learning rate also decays later, may gain more or less.

    Args:
        steps: steps of the validations, rising; the last one ends the training.
        scores: the score of each.
        times: lengths to forecast, as multiples of the last step.

    Returns:
        One gain for each of `times`; empty if there are fewer than five validations after the warm-up.
    """
    used = [(step, score) for step, score in zip(steps, scores, strict=True) if step >= START * steps[-1]]
    if len(used) < FEWEST:
        return []
    at = np.array([step for step, _ in used], float) / steps[-1]
    score = np.array([score for _, score in used], float)
    free = len(used) - 3
    log_weights, means, variances = [], [], []
    for exponent in EXPONENTS:
        power = at**-exponent
        centred = power - power.mean()
        spread = float(centred @ centred)
        slope = -float(centred @ score) / spread
        residuals = score - score.mean() + slope * centred
        noise = max(float(residuals @ residuals), 1e-12 * float(score @ score) + 1e-30)
        log_weights.append(-(len(used) - 2) / 2 * np.log(noise))
        share = 1 - np.array(times, float) ** -exponent
        means.append(slope * share)
        variances.append(noise / free / spread * share**2)
    weight = np.exp(np.array(log_weights) - max(log_weights))[:, None]  # hundreds of validations would overflow
    weight /= weight.sum()
    mean = (weight * np.array(means)).sum(0)
    variance = (weight * (np.array(variances) + (np.array(means) - mean) ** 2)).sum(0)
    return [Gain(k, float(m), float(1.96 * v**0.5)) for k, m, v in zip(times, mean, variance, strict=True)]


def forecast(metrics: Path) -> str:
    """One line on what two and four times the steps would add, from a run's `metrics.csv`; empty if it cannot tell.

    The score is `val/order`: the class's probability with the top share of the pixels, minus that without them, at
    random shares. It estimates INS - DEL.
    """
    if not metrics.is_file():
        return ""
    with metrics.open(encoding="utf-8", newline="") as stream:
        rows = [(int(row["step"]), float(row["val/order"])) for row in csv.DictReader(stream) if row.get("val/order")]
    found = gains([step for step, _ in rows], [100 * score for _, score in rows]) if rows else []
    if not found:
        return ""
    more = "; with ".join(f"{gain.times} times: {gain.mean:+.1f} ± {gain.half_width:.1f}" for gain in found)
    return (
        f"estimated INS - DEL of the validation images, at random areas: {100 * rows[-1][1]:.1f}; "
        f"expected gain of a longer training, with {more}"
    )
