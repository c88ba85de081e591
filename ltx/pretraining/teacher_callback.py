"""An attribution method as the explainer's teacher: its settings, and its maps before the first step."""

from __future__ import annotations

import lightning

from ltx.attribution.teacher_maps import TeacherMaps
from ltx.data.folder import FolderData
from ltx.runtime.progress import progress_bar


class TeacherFirst(lightning.Callback):
    """Before the first step, every rank makes its share of the training images' maps that are not stored yet.

    Args:
        teacher: makes the maps.
        data: whose training files are explained.
        max_batch: rows of one forward pass.
        progress: show a bar, on the first rank.
    """

    def __init__(self, teacher: TeacherMaps, data: FolderData, max_batch: int, progress: bool) -> None:
        self.teacher = teacher
        self.data = data
        self.max_batch = max_batch
        self.progress = progress

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.teacher.classifier.to(trainer.strategy.root_device)
        files = self.data.train_files[trainer.global_rank :: trainer.world_size]
        with progress_bar("teacher's maps", self.progress and trainer.is_global_zero) as progress:
            task = progress.add_task("", total=len(files), rate="")

            def advance(count: int) -> None:
                speed = progress.tasks[0].speed
                progress.update(task, advance=count, rate=f"{speed:.1f} images/s" if speed else "")

            self.teacher.precompute(files, self.data.batch_size, self.max_batch, advance)
        trainer.strategy.barrier("teacher's maps")
