"""Rank and world size of the process."""

from __future__ import annotations

import os

from torch.distributed import is_torchelastic_launched

from ltx.runtime.errors import InputError


def launched_ranks() -> tuple[int, int]:
    """Rank and world size as set by torchrun; (0, 1) for a single process.

    Raises:
        InputError: srun started several processes without torchrun, which do not know of each other.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks > 1 and "RANK" not in os.environ:
        raise InputError(f"srun started this command {tasks} times; use one task per node and start torchrun in it")
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def training_rank() -> int:
    """Rank of the process in a training, which also runs as the tasks of srun: Lightning makes them know each other.

    Raises:
        InputError: srun started several processes in a job that Lightning takes for an interactive one.
    """
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment  # importing Lightning takes seconds

    if "RANK" not in os.environ and SLURMEnvironment.detect():
        return int(os.environ.get("SLURM_PROCID", 0))
    return launched_ranks()[0]


def layout(devices: int | str, nodes: int) -> tuple[int | str, int]:
    """Devices per node and number of nodes: torchrun's under torchrun, otherwise the settings.

    Raises:
        InputError: the settings contradict torchrun.
    """
    if not is_torchelastic_launched():
        return devices, nodes
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    launched = (local, max(1, int(os.environ["WORLD_SIZE"]) // local))
    if str(devices) not in ("auto", str(launched[0])) or nodes not in (1, launched[1]):
        raise InputError(
            f"trainer.devices={devices}, trainer.nodes={nodes}, but torchrun started {launched[0]} processes on "
            f"{'each of ' if launched[1] > 1 else ''}{launched[1]} node{'s' * (launched[1] > 1)}; leave both out"
        )
    return launched
