"""Settings of per-image finetuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ltx.finetuning.settings import SELECTIONS
from ltx.masking.area_sampling import AreaSampling
from ltx.masking.fill import Fill
from ltx.objectives.keep import KEEP_KINDS
from ltx.objectives.objective import Objective
from ltx.runtime.errors import InputError, suggest
from ltx.runtime.seeds import seeded


@dataclass(frozen=True)
class FinetuneSettings:
    """How an explainer is adapted to each image.

    Attributes:
        scope: adapted parameters: `head`, `decoder`, or `all` (including the explainer's own trunk).
        lr: learning rate of AdamW; None = 1e-3, or 3e-4 for a siren, or 1e-4 with `scope="all"` and an own trunk.
        objective: terms that say what a good mask is; None = the objective of the explainer's training.
        keep: kind of the keep term, see `ltx.objectives.keep.Keep`; None = that of training. Not together
            with `objective`. `kl` preserves the prediction; the others raise the class's probability where they can.
        fill: fill for removed pixels during finetuning. The reported probabilities use the first of several.
        select_by: None = the last step's mask; or the rule of the released LTX code: of the masks before each step
            (the unadapted one is the first, the last step's mask is not among them), keep the one that is best by the
            image's own `positive`, `negative`, `deletion` or `insertion` AUC (`ltx` protocol, black fill). Such a map
            is selected by the metric that it may be reported with, and `Explanation.selected_by` says so. Costs 9
            classifier passes per step.
        seed: random seed of fills, areas, jitter and terms.
        max_batch: images adapted at once; bounds memory and does not change results.
        areas: distribution of the areas requested in each step, for networks that take areas; None = that of training.
        jitter: masked images are flipped at random and shifted by up to this many pixels; 0 = neither.
        alternate: steps take turns: one with the terms of the mask itself (`keep`, `remove`), one with those of its
            order (`ranking`), each at twice its weight. A step then costs half of the masked images of an objective
            that has both. See `ltx.objectives.objective.Objective.turns`.
        detail: masks of a vision transformer may differ within its patches, down to 4 × 4 pixels; False = one value per
            patch, as in a forward pass.
        on_step: called before each step with the number of finished steps; the loop ends early, with the maps it has,
            when it returns False. `Explanation.steps` stays the number of steps that were requested.

    Raises:
        InputError: a value is out of range or unknown.
    """

    scope: str = "decoder"
    lr: float | None = None
    objective: Objective | None = None
    keep: str | None = None
    fill: Fill | str | list[str] = "black"
    select_by: str | None = None
    seed: int = 0
    max_batch: int = 16
    areas: AreaSampling | None = None
    jitter: int = 0
    alternate: bool = False
    detail: bool = True
    on_step: Callable[[int], bool] | None = None

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.jitter < 0:
            raise InputError(f"max_batch={self.max_batch}, jitter={self.jitter}; need max_batch >= 1, jitter >= 0")
        if self.keep is not None and self.keep not in KEEP_KINDS:
            raise InputError(
                f"keep={self.keep!r} is unknown; allowed: {', '.join(KEEP_KINDS)}{suggest(self.keep, KEEP_KINDS)}"
            )
        if self.keep is not None and self.objective is not None:
            raise InputError(f"keep={self.keep} changes the objective of the training; set it in objective= instead")
        if self.select_by is not None and self.select_by not in SELECTIONS:
            raise InputError(
                f"select_by={self.select_by!r} is unknown; allowed: {', '.join(SELECTIONS)}"
                f"{suggest(self.select_by, SELECTIONS)}"
            )
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise InputError(f"lr={self.lr}; give a positive learning rate")
        seeded(self.seed)
