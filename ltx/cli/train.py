"""`ltx train`: pretrain an explainer."""

from __future__ import annotations

from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import TrainConfig


def train(config: TrainConfig) -> None:
    """Train, and print the folder of the checkpoint.

    Raises:
        InputError: see `ltx.pretraining.run.run_pretraining`.
    """
    print(f"done: {run_pretraining(config)}")
