"""All measurements of `ltx bench gpu`, within a limited time."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from ltx.bench.conditions import machine
from ltx.bench.gpu.equality import compare_methods, compare_networks
from ltx.bench.gpu.explanation_speed import time_explanations
from ltx.bench.gpu.processes import compare_processes
from ltx.bench.gpu.recipe import train_recipe
from ltx.bench.gpu.session import Session
from ltx.bench.gpu.training_speed import time_training
from ltx.bench.settings import GPU_ITEMS, GPUBench
from ltx.bench.table import Table
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError

ITEMS: dict[str, list[Callable[[Session], None]]] = {
    "equality": [compare_methods, compare_networks],
    "training": [time_training],
    "explanations": [time_explanations],
    "processes": [compare_processes],
    "recipe": [train_recipe],
}


def measure(config: GPUBench) -> None:
    """Run the items in order and write `OUT/gpu.md` and `OUT/gpu.json` after each line.

    A failed measurement becomes a line of the table, and the run continues. Items that no longer fit into `minutes`
    are skipped with a line.
    """
    for item in config.items:
        if item not in GPU_ITEMS:
            raise InputError(f"items: {item!r} is not a valid item; allowed: {', '.join(GPU_ITEMS)}")
    if config.minutes <= 0:
        raise InputError(f"minutes={config.minutes}; must be positive")
    device = pick_device(config.device)
    table = Table(Path(config.out), "gpu", machine(device))
    session = Session(config, device, table)
    for item in config.items:
        for part in ITEMS[item]:
            if session.seconds_left <= 0:
                table.add(item, part.__name__.replace("_", " "), f"skipped: the {config.minutes:g} minutes are over")
                continue
            try:
                part(session)
            except Exception as error:  # a measurement that fails must not end the run
                traceback.print_exc()
                message = " ".join(str(error).split())[:200]
                table.add(item, part.__name__.replace("_", " "), f"failed: {type(error).__name__}: {message}")
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    print(f"wrote {table.folder / 'gpu.md'} and gpu.json after {table.elapsed:.0f} s")
