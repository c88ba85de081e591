"""Fair comparison on a noisy machine: the candidates take turns, and medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def take_turns(
    candidates: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of `repeats` runs of each candidate, in turn, after one uncounted run of each."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, run in candidates.items():
            _wait(device)
            begun = time.perf_counter()
            run()
            _wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each candidate's seconds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def median_ratio(above: list[float], below: list[float]) -> float:
    """Median over the turns of the ratio within a turn: steadier than a ratio of medians when the speed drifts."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
