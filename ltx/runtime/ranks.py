"""Which of several processes this one is, and how they are laid out."""

from __future__ import annotations

import os

from torch.distributed import is_torchelastic_launched

from ltx.runtime.errors import InputError


def launched_ranks() -> tuple[int, int]:
    """This process's rank, and of how many, as torchrun says; (0, 1) of a process on its own.

    Raises:
        InputError: several processes that srun started, none of which knows of the others.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks > 1 and "RANK" not in os.environ:
        raise InputError(f"srun started this command {tasks} times; give it one task a node, and there start torchrun")
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def layout(devices: int | str, nodes: int) -> tuple[int | str, int]:
    """Devices a node and nodes of a training: as torchrun started its processes, otherwise as the settings say.

    Raises:
        InputError: settings that contradict what torchrun started.
    """
    if not is_torchelastic_launched():
        return devices, nodes
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    started = (local, max(1, int(os.environ["WORLD_SIZE"]) // local))
    if str(devices) not in ("auto", str(started[0])) or nodes not in (1, started[1]):
        raise InputError(
            f"trainer.devices={devices}, trainer.nodes={nodes}, but torchrun started {started[0]} processes on "
            f"{'each of ' if started[1] > 1 else ''}{started[1]} node{'s' * (started[1] > 1)}; leave both out"
        )
    return started
