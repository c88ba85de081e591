"""Pictures of the masks during training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor

from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.fill import Fill
from ltx.results.explanation import Explanation
from ltx.results.pictures import overlay_grid
from ltx.runtime.atomic_files import atomic_write


class Overlays(lightning.Callback):
    """Draw the masks of a few validation images after each validation, as `overlays/step_000100.png`.

    A run removes the pictures of steps after its resume point, which a previous run left: at its first validation or
    resume point, so that a run that dies earlier leaves the previous one's pictures.

    Args:
        folder: where the pictures are written.
        explainer: the network in training.
        images: `[B, 3, H, W]` in [0, 1]; an empty batch = no pictures.
        show: called with the explanation of the images and the step, for a logger that shows them.
        fill: fill for removed pixels; of a list the first.
    """

    def __init__(
        self,
        folder: Path,
        explainer: MaskNetwork,
        images: Tensor,
        show: Callable[[Explanation, int], None] | None = None,
        fill: Fill | str = "black",
    ) -> None:
        self.folder = folder
        self.explainer = explainer
        self.images = images
        self.show = show
        self.fill = fill
        self._start: int | None = None  # the resume point after which pictures are still to be removed

    @rank_zero_only
    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._start = trainer.global_step

    @rank_zero_only
    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._remove_later_pictures()

    def _remove_later_pictures(self) -> None:
        start, self._start = self._start, None
        if start is None:
            return
        for picture in self.folder.glob("step_*.png"):
            step = picture.stem.removeprefix("step_")
            if step.isdigit() and int(step) > start:
                picture.unlink()

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._remove_later_pictures()
        if not len(self.images):
            return
        with torch.no_grad():
            explanation = self.explainer.explain(self.images.to(module.device), fill=self.fill)
        records = [explanation.record(index) for index in range(len(explanation))]
        title = "{label}: {probability:.2f}, kept {probability_kept:.2f}, removed {probability_removed:.2f}"
        assert explanation.mask is not None
        picture = overlay_grid(self.images, explanation.mask.cpu(), [title.format(**record) for record in records])
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / f"step_{trainer.global_step:06d}.png") as stream:
            Image.fromarray(picture).save(stream, format="png")
        if self.show is not None:
            self.show(explanation, trainer.global_step)
