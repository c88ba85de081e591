"""Which of several processes this one is."""

from __future__ import annotations

import os

from ltx.errors import InputError


def launched_ranks() -> tuple[int, int]:
    """This process's rank, and of how many, as torchrun says; (0, 1) of a process on its own.

    Raises:
        InputError: several processes that srun started, none of which knows of the others.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks > 1 and "RANK" not in os.environ:
        raise InputError(f"srun started this command {tasks} times; give it one task a node, and there start torchrun")
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
