"""The recipe: the defaults of `ltx train`, which are meant for any classifier and any number of steps.

What changes during the training is a schedule over its progress, so that the number of steps is the only choice.
`docs/ablations.md` has the evidence for each value.
"""

from __future__ import annotations

from ltx.objectives.area import Area
from ltx.objectives.keep import Keep
from ltx.objectives.ranking import Ranking
from ltx.objectives.remove import Remove
from ltx.objectives.settings import ObjectiveConfig

MOSAIC = [[0.3, 0.25], [0.6, 0.5]]
"""Share of mosaics. More of them find the target class better, and tighten the masks of single photographs."""

LR = 2e-3
"""Peak learning rate of the decoder: 1e-3 is worse in few steps, 3e-3 is no better."""


def recipe_objective() -> ObjectiveConfig:
    """The LTX terms, and a ranking term by probability that orders the pixels."""
    return ObjectiveConfig(
        keep=Keep(weight=0.8),
        remove=Remove(weight=0.8),
        area=Area(weight=2.0),
        ranking=Ranking(
            weight=4.0, kind="probability", temperature=0.1, low=0.05, high=0.7, removed=[[0.3, 1.0], [0.6, 2.0]]
        ),
    )
