"""Machines without a network have no wandb: every module is imported, and a training runs, without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ltx
from tests.support.small_inputs import write_photographs

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys, warnings
sys.modules["wandb"] = None  # importing it raises ModuleNotFoundError
import ltx
for module in pkgutil.walk_packages(ltx.__path__, "ltx."):
    if not module.name.endswith("__main__") and module.name.split(".")[1] not in ("demo", "export"):
        importlib.import_module(module.name)
from ltx.config.command_line import parse
from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import TrainConfig
run_pretraining(parse(TrainConfig, sys.argv[1:], "ltx train", ""))
"""


def test_every_module_is_imported_and_a_training_runs(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs", (f"{index}.png" for index in range(5)), (40, 40))
    words = ["classifier.name=resnet10t", "classifier.weights=random", "classifier.input_size=32"]
    words += [f"data.images={photographs}", "data.workers=0", "data.batch_size=2", "trainer.max_steps=1"]
    words += [
        "trainer.validate_every=1",
        "trainer.accelerator=cpu",
        "trainer.progress=false",
        f"out={tmp_path / 'out'}",
    ]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, *words],
        cwd=Path(ltx.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "explainer.safetensors").is_file()
