"""The settings of `ltx shards`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ltx.config.options import check_ranges, option


@dataclass
class MakeConfig:
    """Which files become shards, and how."""

    EXAMPLE: ClassVar[str] = "images=FOLDER out=shards"

    images: Any = option(None, help="what becomes shards: FOLDER, FILE, GLOB, CSV, a list of them, or scikit-image")
    shards: Any = option(None, help="instead of images: shards that there are (paths or URLs), which are only counted")
    out: str = option("runs/shards", help="folder of the shards and the manifest; a repeated command goes on there")
    per_shard: int = option(1000, help="images of a shard, all but the last")
    side: int | None = option(None, help="shrink pictures to this shorter side; null = the files as they are")
    quality: int = option(90, help="of the JPEGs, where pictures are shrunk")
    labels: str | None = option(None, help="CSV with the columns file and class_index; null = no labels")
    seed: int = option(0, help="of the order: folders of one class each are no order to train in")
    workers: int | None = option(None, help="shards that are written at once; null = one a core, 8 at most")

    def __post_init__(self) -> None:
        some = (1, math.inf)
        check_ranges("", self, per_shard=some, side=some, quality=(1, 100), workers=some)
