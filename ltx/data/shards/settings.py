"""The settings of `ltx shards`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ltx.config.options import check_ranges, option


@dataclass
class MakeConfig:
    """Settings of `ltx shards`."""

    EXAMPLE: ClassVar[str] = "images=FOLDER out=shards"

    images: Any = option(
        None, help="images to pack: FOLDER, FILE, GLOB, CSV, a list of them, or scikit-image", path=True
    )
    shards: Any = option(None, help="instead of images: existing shards (paths or URLs) to count", path=True)
    out: str = option(
        "runs/shards", help="folder of the shards and the manifest; the same command resumes there", path=True
    )
    per_shard: int = option(1000, help="images per shard; the last may have fewer")
    side: int | None = option(
        None, help="resize images to this shorter side if it is larger; null = store the files unchanged"
    )
    quality: int = option(90, help="JPEG quality of resized images")
    labels: str | None = option(None, help="CSV with the columns file and class_index; null = no labels", path=True)
    seed: int = option(0, help="random seed of the order in the shards")
    workers: int | None = option(None, help="shards written in parallel; null = one per core, at most 8")

    def __post_init__(self) -> None:
        some = (1, math.inf)
        check_ranges("", self, per_shard=some, side=some, quality=(1, 100), workers=some)
