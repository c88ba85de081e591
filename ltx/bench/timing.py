"""Fair comparison on a noisy machine: candidates alternate, and medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from ltx.runtime.devices import wait_for


def take_turns(
    candidates: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Time `repeats` runs of each candidate, alternating, after one warm-up run of each; returns seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, run in candidates.items():
            wait_for(device)
            begun = time.perf_counter()
            run()
            wait_for(device)
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median time of each candidate."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def median_ratio(above: list[float], below: list[float]) -> float:
    """Median over turns of the ratio within a turn, which is more stable than a ratio of medians if speed drifts."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
