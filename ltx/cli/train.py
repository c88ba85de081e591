"""`ltx train`: pretrain an explainer."""

from __future__ import annotations

import logging
import warnings

from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import TrainConfig
from ltx.runtime.exclusive_folder import exclusive
from ltx.runtime.ranks import training_rank


def train(config: TrainConfig) -> None:
    """Train, and print the folder of the checkpoint.

    Raises:
        InputError: see `ltx.pretraining.run.run_pretraining`.
    """
    # The run says itself on which devices it trains and where it resumes; Lightning adds advertisements to that.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.")  # torch's, about Lightning's code
    with exclusive(config.out, training_rank()):
        out = run_pretraining(config)
    print(f"done: {out}")
