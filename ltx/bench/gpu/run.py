"""All measurements of `ltx bench gpu`, within a limited time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

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

SHARES = {"equality": 0.2, "training": 0.3, "explanations": 0.2, "processes": 0.1, "recipe": 0.2}
"""Share of the time for each item; what an item does not need is left for those after it."""
ITEMS: dict[str, list[Callable[[Session], None]]] = {
    "equality": [compare_networks, compare_methods],
    "training": [time_training],
    "explanations": [time_explanations],
    "processes": [compare_processes],
    "recipe": [train_recipe],
}


def measure(config: GPUBench) -> None:
    """Run the items in order and write `OUT/gpu.md` and `OUT/gpu.json` after each line.

    A failed measurement becomes a line of the table, and the run continues. Each item has a share of `minutes`;
    measurements that no longer fit are skipped with a line.

    Raises:
        InputError: an unknown item, or no time.
        PartialFailureError: measurements failed.
    """
    for item in config.items:
        if item not in GPU_ITEMS:
            raise InputError(f"items: {item!r} is not a valid item; allowed: {', '.join(GPU_ITEMS)}")
    if config.minutes <= 0:
        raise InputError(f"minutes={config.minutes}; must be positive")
    device = pick_device(config.device)
    table = Table(Path(config.out), "gpu", machine(device))
    session = Session(config, device, table)
    for place, item in enumerate(config.items):
        share = SHARES[item] / sum(SHARES[other] for other in config.items[place:])
        session.deadline = table.elapsed + share * (60 * config.minutes - table.elapsed)
        for part in ITEMS[item]:
            session.attempt(item, part.__name__.replace("_", " "), partial(part, session))
    table.finish()
