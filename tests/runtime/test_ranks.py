"""Ranks and devices under torchrun and srun."""

from __future__ import annotations

import pytest

from ltx import InputError
from ltx.runtime.ranks import launched_ranks, layout, training_rank
from tests.support.processes import srun_variables


def test_several_tasks_of_srun_without_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(InputError, match="srun started this command 8 times"):
        launched_ranks()
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launched_ranks() == (2, 8)


def test_a_training_takes_its_rank_from_srun_as_lightning_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in srun_variables(rank=11, tasks=32, nodes=4).items():
        monkeypatch.setenv(name, value)
    assert training_rank() == 11
    with pytest.raises(InputError, match="srun started this command 32 times"):
        launched_ranks()
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")  # here Lightning would train in each task by itself
    with pytest.raises(InputError, match="srun started this command 32 times"):
        training_rank()
    monkeypatch.setenv("RANK", "2")  # torchrun in a task
    assert training_rank() == 2


def test_devices_are_the_processes_that_torchrun_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own choice would let each process on a CPU train alone, into the same folder."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert layout("auto", 3) == ("auto", 3)
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("LOCAL_WORLD_SIZE", "4"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    assert layout("auto", 1) == layout(4, 2) == (4, 2)
    for devices, nodes in ((2, 1), ("auto", 4)):
        with pytest.raises(InputError, match="torchrun started 4 processes on each of 2 nodes; leave both out"):
            layout(devices, nodes)
