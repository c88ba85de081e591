"""Commands in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

BEFORE = """
import os, sys
from ltx.config.command_line import parse
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import TrainConfig
step = LTXPretraining.training_step
"""
AFTER = """
LTXPretraining.training_step = patched
run_pretraining(parse(TrainConfig, sys.argv[1:], 'train.py', ''))
"""


def patched_script(file: Path, definitions: str) -> Path:
    """A script that trains with `patched(self, batch, batch_idx)`, which calls the original as `step`."""
    file.write_text(BEFORE + definitions + AFTER)
    return file


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, with one thread, the project on the path, and no downloads of weights."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables}


def run_python(*arguments: object, status: int = 0, **variables: str) -> str:
    """Run Python in the project's folder and return its output; the exit status must be `status`."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout + done.stderr


def torchrun(processes: int, script: Path | str = "train.py") -> list[str]:
    """Arguments of `run_python` that start a script in several processes."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", str(script)]


def srun_variables(rank: int, tasks: int, nodes: int = 1, port: int = 12910) -> dict[str, str]:
    """What srun sets for task `rank` of `tasks` in a batch job."""
    each = tasks // nodes
    numbers = {"PROCID": rank, "LOCALID": rank % each, "NODEID": rank // each, "NTASKS": tasks, "NNODES": nodes}
    numbers |= {"NPROCS": tasks, "NTASKS_PER_NODE": each, "STEP_NUM_TASKS": tasks, "STEP_NUM_NODES": nodes}
    numbers |= {"JOB_ID": 4711, "JOBID": 4711, "STEP_ID": 0, "STEP_TASKS_PER_NODE": each}
    words = {"JOB_NAME": "train.sh", "NODELIST": "localhost", "STEP_NODELIST": "localhost"}
    return {f"SLURM_{name}": str(value) for name, value in (numbers | words).items()} | {"MASTER_PORT": str(port)}
