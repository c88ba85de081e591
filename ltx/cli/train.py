"""`ltx train`: pretrain an explainer."""

from __future__ import annotations

from ltx.pretraining.run import pretrain
from ltx.pretraining.settings import TrainConfig


def train(config: TrainConfig) -> None:
    """Train, and print where the checkpoint is.

    Raises:
        InputError: see `ltx.pretraining.run.pretrain`.
    """
    print(f"done: {pretrain(config)}")
