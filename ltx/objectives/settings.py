"""The registry of terms, and their settings."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ltx.config.options import check_choices, option
from ltx.objectives.area import Area
from ltx.objectives.elsewhere import Elsewhere
from ltx.objectives.keep import Keep
from ltx.objectives.ranking import Ranking
from ltx.objectives.remove import Remove
from ltx.objectives.smoothness import Smoothness
from ltx.objectives.teacher import Teacher


@dataclass
class ObjectiveConfig:
    """The registry of terms, and the settings of each; a term of weight 0 is not computed."""

    keep: Keep = option(Keep, help="the kept pixels preserve the prediction")
    remove: Remove = option(Remove, help="without the mask's pixels the class is lost")
    area: Area = option(Area, help="how much is kept")
    smoothness: Smoothness = option(Smoothness, help="neighbouring places agree")
    ranking: Ranking = option(Ranking, help="the order of the scores is right at every area")
    elsewhere: Elsewhere = option(Elsewhere, help="nothing of a mosaic's other photographs is kept, in training only")
    teacher: Teacher = option(Teacher, help="the scores are ordered as a teacher's map, in training only")

    def __post_init__(self) -> None:
        for field in fields(self):
            check_choices(f"objective.{field.name}.", getattr(self, field.name))


TERMS = tuple(field.name for field in fields(ObjectiveConfig))
