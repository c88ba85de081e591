"""Refused settings of the terms."""

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
    with pytest.raises(InputError, match=r"objective\.keep\.weight=-1; give a number 0 or more"):
        ObjectiveConfig(keep=Keep(weight=-1))


def test_settings_are_checked_at_each_point_of_a_schedule():
    ObjectiveConfig(ranking=Ranking(low=[[0, 0.05], [1, 0.5]], high=[[0, 0.2], [0.5, 0.6]]))
    with pytest.raises(InputError, match=r"low=0\.5, high=0\.4"):
        ObjectiveConfig(ranking=Ranking(low=[[0, 0.05], [1, 0.5]], high=0.4))
    with pytest.raises(InputError, match=r"objective\.ranking: .*temperature=0\.0"):
        ObjectiveConfig(ranking=Ranking(temperature=[[0, 0.2], [0.5, 0]]))
    with pytest.raises(InputError, match=r"objective\.area\.target=\[\[0, 2\]\]: the values .* from 0 to 1"):
        ObjectiveConfig(area=Area(target=[[0, 2]]))
