"""Schedules of weights, and refused settings."""

from __future__ import annotations

import math

import pytest

from ltx import InputError
from ltx.objectives.area import Area
from ltx.objectives.keep import Keep
from ltx.objectives.ranking import Ranking
from ltx.objectives.settings import ObjectiveConfig
from ltx.objectives.smoothness import Smoothness
from ltx.objectives.teacher import Teacher
from ltx.objectives.terms import ever_positive, scheduled


def test_schedules():
    points = [[0.2, 1.0], [0.6, 3.0]]
    values = [scheduled(points, at, "t") for at in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert values == pytest.approx([1, 1, 2, 3, 3])
    assert scheduled(2, 0.7, "t") == 2
    impossible = (-1, math.nan, math.inf, [[0, -1]], [[0, math.nan]], [[2, 1]], [[-0.5, 1], [0.5, 1]])
    for bad in ([[0.5, 1], [0.2, 2]], "much", [[1]], [], *impossible):
        with pytest.raises(InputError, match=r"t\.weight="):
            scheduled(bad, 0.0, "t")
    assert [ever_positive(weight) for weight in (0, 2.0, [[0, 0], [1, 0]], [[0, 1], [0.5, 0]])] == [0, 1, 0, 1]


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match=r"low=0\.5"):
        Area(low=0.5, high=0.2)
    for term in (Ranking, Teacher):
        for temperature in (0, math.nan, math.inf):
            with pytest.raises(InputError, match=f"temperature={temperature}"):
                term(temperature=temperature)
    with pytest.raises(InputError, match=r"objective\.smoothness\.power=0\.5"):
        Smoothness(power=0.5)
    with pytest.raises(InputError, match=r"objective\.keep\.kind='crossentropy' is unknown.*mean cross_entropy"):
        ObjectiveConfig(keep=Keep(kind="crossentropy"))
    with pytest.raises(InputError, match=r"objective\.ranking\.kind='prob' is unknown.*allowed: log, probability"):
        ObjectiveConfig(ranking=Ranking(kind="prob"))
