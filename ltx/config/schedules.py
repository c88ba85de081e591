"""Settings that may change in the course of a training: a number, or a schedule over the training's progress."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar, cast

from ltx.runtime.errors import InputError

Scheduled = float | Sequence[Sequence[float]]
"""A number, or `[[progress, value], …]` with rising progress in [0, 1]: linear between the points, constant outside."""

Settings = TypeVar("Settings")


def value_at(setting: Scheduled, progress: float) -> float:
    """The value of a setting that `check_scheduled` accepts.

    Args:
        setting: a number or a schedule.
        progress: progress of the training in [0, 1].
    """
    if isinstance(setting, (int, float)):
        return float(setting)
    if progress <= setting[0][0]:
        return float(setting[0][1])
    for (start, low), (end, high) in pairwise(setting):
        if progress <= end:
            return low + (high - low) * (progress - start) / (end - start)
    return float(setting[-1][1])


def ever_positive(setting: Scheduled) -> bool:
    """Whether a setting is positive at any progress."""
    return setting > 0 if isinstance(setting, (int, float)) else any(value > 0 for _, value in setting)


def corners(setting: Scheduled) -> list[float]:
    """The progress of each point of a schedule; empty for a number."""
    return [] if isinstance(setting, (int, float)) else [float(at) for at, _ in setting]


def at(settings: Settings, progress: float) -> Settings:
    """A copy of a settings dataclass with the value of each of its schedules at a progress of the training."""
    changed = {name: value_at(setting, progress) for name, setting in _schedules(settings)}
    return cast(Settings, dataclasses.replace(cast(Any, settings), **changed)) if changed else settings


def has_schedules(settings: Any) -> bool:
    """Whether any field of a settings dataclass is a schedule, so that its values depend on the progress."""
    return any(True for _ in _schedules(settings))


def check_schedules(group: str, settings: Any) -> None:
    """Check each field of a settings dataclass that may be a schedule, and the settings at each point of one.

    What the settings' own `__post_init__` checks about numbers thereby holds for the whole training, as long as it is
    a linear condition: the values are linear between the points.

    Args:
        group: prefix of the names on the command line, including its dot.
        settings: an instance of a settings dataclass.

    Raises:
        InputError: see `check_scheduled`, or what the settings raise for the values at some point.
    """
    points: set[float] = set()
    for field in _fields(settings):
        setting = getattr(settings, field.name)
        check_scheduled(f"{group}{field.name}", setting, *field.metadata["scheduled"])
        points.update(corners(setting))
    for progress in sorted(points):
        at(settings, progress)


def check_scheduled(name: str, setting: Any, low: float = 0.0, high: float = math.inf) -> None:
    """Check a number or a schedule.

    Args:
        name: the setting, for the message.
        setting: what a user gave.
        low, high: the smallest and the largest value that is allowed.

    Raises:
        InputError: neither a number nor a list of pairs; a value that is not finite or out of range; or progress that
            does not rise within [0, 1].
    """
    allowed = f"{low:g} or more" if math.isinf(high) else f"from {low:g} to {high:g}"
    if isinstance(setting, (int, float)) and not isinstance(setting, bool):
        if not (low <= setting <= high and math.isfinite(setting)):
            raise InputError(f"{name}={setting}; give a number {allowed}")
        return
    try:
        points = [(float(at), float(value)) for at, value in setting]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}={setting}; give a number or a list of [progress, value] pairs") from error
    rising = all(a[0] < b[0] for a, b in pairwise(points))
    if not points or not rising or not 0 <= points[0][0] <= points[-1][0] <= 1:
        raise InputError(f"{name}={setting}: the progress values of a schedule must increase within [0, 1]")
    if not all(low <= value <= high and math.isfinite(value) for _, value in points):
        raise InputError(f"{name}={setting}: the values of the schedule must be numbers {allowed}")


def _fields(settings: Any) -> Iterator[dataclasses.Field[Any]]:
    return (field for field in dataclasses.fields(settings) if field.metadata.get("scheduled") is not None)


def _schedules(settings: Any) -> Iterator[tuple[str, Scheduled]]:
    for field in _fields(settings):
        setting = getattr(settings, field.name)
        if not isinstance(setting, (int, float)):
            yield field.name, setting
