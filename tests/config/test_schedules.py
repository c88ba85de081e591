"""Schedules: their values in closed form, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from ltx import InputError
from ltx.config.options import option
from ltx.config.schedules import at, check_scheduled, check_schedules, ever_positive, has_schedules, value_at

POINTS = [[0.2, 1.0], [0.6, 3.0], [0.7, 0.0]]


@dataclass
class Interval:
    low: Any = option(0.1, help="lower end", scheduled=(0, 1))
    high: Any = option(0.5, help="upper end", scheduled=(0, 1))
    points: Any = option(None, help="no schedule")

    def __post_init__(self) -> None:
        if not has_schedules(self) and self.low >= self.high:
            raise InputError(f"low={self.low}, high={self.high}")


def test_values_are_linear_between_the_points_and_constant_outside():
    values = [value_at(POINTS, progress) for progress in (0.0, 0.2, 0.3, 0.6, 0.65, 0.7, 1.0)]
    assert values == pytest.approx([1, 1, 1.5, 3, 1.5, 0, 0])
    assert [value_at(2, progress) for progress in (0.0, 0.7)] == [2, 2]
    assert value_at([[0.5, 4]], 0.0) == value_at([[0.5, 4]], 1.0) == 4


@pytest.mark.parametrize("setting", [0, 2.0, [[0, 0], [1, 0]], [[0, 1], [0.5, 0]]])
def test_ever_positive(setting: Any):
    assert ever_positive(setting) is any(value_at(setting, step / 100) > 0 for step in range(101))


def test_the_settings_at_a_progress_have_numbers_only():
    settings = Interval(low=[[0, 0.1], [1, 0.3]], points=[[0, 1]])
    half = at(settings, 0.5)
    assert (half.low, half.high, half.points) == (pytest.approx(0.2), 0.5, [[0, 1]])
    assert not has_schedules(half)
    assert at(half, 1.0) is half


def test_each_point_of_a_schedule_is_checked():
    check_schedules("i.", Interval(low=[[0, 0.1], [0.5, 0.4]]))
    with pytest.raises(InputError, match=r"low=0\.6, high=0\.5"):
        check_schedules("i.", Interval(low=[[0, 0.1], [0.5, 0.6]]))
    with pytest.raises(InputError, match=r"i\.high=2; give a number from 0 to 1"):
        check_schedules("i.", Interval(high=2))


@pytest.mark.parametrize(
    "setting",
    [
        *(-1, math.nan, math.inf, True, None, "much"),
        *([], [[1]], [1, 2], [[0.5, 1], [0.2, 2]], [[0.5, 1], [0.5, 2]]),
        *([[0, -1]], [[0, math.nan]], [[0, math.inf]], [[2, 1]], [[-0.5, 1], [0.5, 1]]),
    ],
)
def test_what_is_neither_a_number_nor_a_schedule_is_refused(setting: Any):
    with pytest.raises(InputError, match=r"^objective\.keep\.weight=") as error:
        check_scheduled("objective.keep.weight", setting)
    assert "\n" not in str(error.value)
