"""The teacher's maps, computed before the first step."""

from __future__ import annotations

import lightning

from ltx.attribution.teacher_maps import TeacherMaps
from ltx.data.folder import FolderData
from ltx.runtime.progress import progress_bar


class PrecomputeTeacherMaps(lightning.Callback):
    """Compute and store the teacher's maps of the training images before the first step; each rank computes its share.

    Maps that are stored already are not recomputed.

    Args:
        teacher: computes and stores the maps.
        data: provides the training files.
        max_batch: rows of one forward pass; bounds memory.
        progress: show a bar on the first rank.
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
