"""Small training runs in several processes, and a comparison of their results."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig
from tests.support.small_inputs import write_photographs, write_weights
from tests.support.small_trainings import metric_rows, small_training, with_weights

SLACK = {"rtol": 2e-3, "atol": 2e-4}
"""Gradients are summed in another order, and AdamW turns a gradient near zero into a whole step."""

PEAK_LR = 1e-3


def write_inputs(folder: Path) -> Path:
    """`weights.safetensors`, 24 `photos` and their `shards` in a folder."""
    write_weights(folder)
    write_photographs(folder / "photos", (f"{index:02d}.png" for index in range(24)), (44, 50), cells=(5, 5))
    make(MakeConfig(images=str(folder / "photos"), out=str(folder / "shards"), per_shard=3))
    return folder


def words_for(inputs: Path, out: Path, processes: int, *words: str, images: int = 8) -> list[str]:
    """Words of `ltx train` for steps of `images` images in total, divided among the processes."""
    fixed = [f"data.batch_size={images // processes}", f"trainer.devices={processes}", "trainer.overlays=1"]
    fixed += ["fill=random", "objective.ranking.weight=0.5"]
    return small_training(inputs / "photos", out, *with_weights(inputs / "weights.safetensors"), *fixed, *words)


def assert_same_curves(first: Path, second: Path) -> None:
    """Two runs logged the same metrics, to the rounding of sums in another order."""
    for a, b in zip(metric_rows(first), metric_rows(second), strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert bool(a[key]) == bool(b[key])
            if a[key]:
                assert np.isclose(float(a[key]), float(b[key]), **SLACK), (a["step"], key, a[key], b[key])
