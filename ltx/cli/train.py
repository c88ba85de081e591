"""`ltx train`: pretrain an explainer."""

from __future__ import annotations

from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import TrainConfig
from ltx.runtime.exclusive_folder import exclusive


def train(config: TrainConfig) -> None:
    """Train, and print the folder of the checkpoint.

    Raises:
        InputError: see `ltx.pretraining.run.run_pretraining`.
    """
    with exclusive(config.out):
        out = run_pretraining(config)
    print(f"done: {out}")
