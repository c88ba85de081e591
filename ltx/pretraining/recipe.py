"""The recipe: the defaults of `ltx train`, which are meant for any classifier and any number of steps.

Any of its numbers may be a schedule over the training's progress, so that it stretches with the number of steps. At
present none is: of those that were tried, none ordered the pixels better on every classifier. Three that find the
target class better are in `configs/train/mosaics.yaml`. `docs/ablations.md` has the evidence for each value.
"""

from __future__ import annotations

from typing import Any

from ltx.config.schedules import Scheduled
from ltx.objectives.area import Area
from ltx.objectives.keep import Keep
from ltx.objectives.ranking import Ranking
from ltx.objectives.remove import Remove
from ltx.objectives.settings import ObjectiveConfig

MOSAIC: Scheduled = 0.25
"""Share of mosaics. More of them find the target class better, at the cost of the order of pixels."""

LR = 2e-3
"""Peak learning rate of the decoder: 1e-3 is worse in few steps, 3e-3 is no better."""


def recipe_objective() -> ObjectiveConfig:
    """The LTX terms, and a ranking term by probability that orders the pixels."""
    return ObjectiveConfig(
        keep=Keep(weight=0.8),
        remove=Remove(weight=0.8),
        area=Area(weight=2.0),
        ranking=Ranking(weight=4.0, kind="probability", temperature=0.1, low=0.05, high=0.7),
    )


INR: dict[str, Any] = {
    "explainer.variant": "fourier",  # a siren learns noise when it is amortised
    "explainer.nested": True,  # one pass serves every area
    "objective.keep.kind": "lost_probability",  # the smallest masks preserve nothing, and would rule a logarithm
    "objective.keep.weight": 4.0,
    "objective.remove.weight": 1.0,
    "objective.area.kind": "sorted",
    "objective.area.weight": 1.0,
    "objective.ranking.weight": 0.0,  # a mask of each area is what the network already writes
    "areas.count": 2,
    "areas.low": 0.04,
    "areas.high": 0.6,
    "fill": "blur",
    "optimiser.lr": 1e-3,
}
"""The recipe of a coordinate network that takes the area as an input, where it differs."""
