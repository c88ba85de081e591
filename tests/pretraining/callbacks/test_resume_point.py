"""The resume point: written whole, seen by all processes, for steps of the same size."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ltx import InputError
from ltx.pretraining.callbacks.resume_point import ResumePoint
from ltx.pretraining.run import run_pretraining


def test_processes_that_see_different_folders_do_not_train(tmp_path: Path) -> None:
    """Some would resume and the others start from scratch."""
    votes: list[bool] = []

    def decide(vote: bool, all: bool) -> bool:
        votes.append(vote)
        return vote

    strategy = SimpleNamespace(broadcast=lambda step: 4, reduce_boolean_decision=decide)
    trainer: Any = SimpleNamespace(global_step=4, strategy=strategy)
    module: Any = None
    point = ResumePoint(tmp_path / "last.ckpt", 1, 4, lambda trainer, state: None)
    point.on_train_start(trainer, module)
    trainer.global_step = 0
    with pytest.raises(InputError, match=r"last\.ckpt is not visible to all processes.* a folder that all nodes share"):
        point.on_train_start(trainer, module)
    assert votes == [True, False], "every process votes, so that none waits"


def test_no_rank_exits_before_the_first_has_written(tmp_path: Path) -> None:
    """A rank that exits ends the others, whatever they are writing."""
    calls: list[str] = []

    class Strategy:
        def barrier(self) -> None:
            calls.append(f"barrier, {sorted(file.name for file in tmp_path.iterdir())}")

    class Trainer:
        global_step, is_global_zero, strategy = 3, True, Strategy()

        def save_checkpoint(self, file: Path) -> None:
            file.write_text("state")

    trainer: Any = Trainer()
    ResumePoint(tmp_path / "last.ckpt", 1, 2, lambda *_: calls.append("tensors")).write(trainer)
    assert calls == ["tensors", "barrier, ['last.ckpt']"]


def test_a_run_does_not_resume_with_steps_of_another_size(config_for: Any):
    config = config_for("run")
    run_pretraining(config)
    size = config.data.batch_size
    with pytest.raises(InputError, match=rf"with {size} images per step, now {2 * size} .*make {size} again, or .*res"):
        run_pretraining(config_for("run", f"data.batch_size={2 * size}"))
