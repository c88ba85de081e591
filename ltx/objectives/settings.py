"""Registry of the terms, and their settings."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ltx.config.options import check_choices, option
from ltx.config.schedules import check_schedules
from ltx.objectives.area import Area
from ltx.objectives.elsewhere import Elsewhere
from ltx.objectives.keep import Keep
from ltx.objectives.ranking import Ranking
from ltx.objectives.remove import Remove
from ltx.objectives.smoothness import Smoothness
from ltx.objectives.teacher import Teacher


@dataclass
class ObjectiveConfig:
    """Registry of the terms, with the settings of each; a term of weight 0 is not computed."""

    keep: Keep = option(Keep, help="the kept pixels preserve the prediction")
    remove: Remove = option(Remove, help="without the kept pixels, the class is lost")
    area: Area = option(Area, help="how much the mask keeps")
    smoothness: Smoothness = option(Smoothness, help="neighbouring mask values agree")
    ranking: Ranking = option(Ranking, help="deletion and insertion at random areas")
    elsewhere: Elsewhere = option(Elsewhere, help="nothing is kept of a mosaic's other photographs (training only)")
    teacher: Teacher = option(Teacher, help="the scores are ordered like a teacher's map (training only)")

    def __post_init__(self) -> None:
        for field in fields(self):
            term = getattr(self, field.name)
            check_choices(f"objective.{field.name}.", term)
            check_schedules(f"objective.{field.name}.", term)


TERMS = tuple(field.name for field in fields(ObjectiveConfig))
