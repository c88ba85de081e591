"""The settings of `ltx demo`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ltx.config.options import check_ranges, option
from ltx.finetuning.settings import LoadedExplainerConfig


@dataclass
class DemoConfig(LoadedExplainerConfig):
    """Which explainer the app shows, and where it listens."""

    host: str = option("127.0.0.1", help="address to listen on; 0.0.0.0 = every network of this machine")
    port: int = option(7860, help="port to listen on; 0 = any free one")
    device: str = option("auto", help="auto, cpu, cuda, cuda:1, …")
    steps: int = option(25, help="optimiser steps of Refine")
    max_batch: int = option(16, help="images in one forward pass of the other methods; bounds memory")
    upload_mb: float = option(20.0, help="largest upload in megabytes")
    keep_minutes: float = option(10.0, help="age in minutes at which uploads, results and downloads are deleted")
    waiting: int = option(32, help="visitors that may wait in the queue; others get a message to try again later")

    def __post_init__(self) -> None:
        check_ranges(
            "",
            self,
            port=(0, 65535),
            steps=(1, 1000),
            max_batch=(1, math.inf),
            upload_mb=(0.01, 1000),
            keep_minutes=(0.05, 10080),
            waiting=(1, 10000),
        )
