"""A warning for masks that no longer depend on the image."""

from __future__ import annotations

import warnings

import lightning
from lightning.pytorch.utilities import rank_zero_only


class CollapseWarning(lightning.Callback):
    """Warn after a validation whose masks are nearly constant: the area's weight is too high or too low.

    Args:
        spread: smallest acceptable standard deviation over a mask's pixels, mean over the validation images.
    """

    def __init__(self, spread: float = 0.02) -> None:
        self.spread = spread

    @rank_zero_only
    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        metrics = trainer.callback_metrics
        if trainer.sanity_checking or "val/mask_spread" not in metrics or metrics["val/mask_spread"] >= self.spread:
            return
        mean = float(metrics["val/mask_mean"])
        change = "lower" if mean < 0.5 else "raise"
        warnings.warn(
            f"step {trainer.global_step}: the masks have collapsed (mean {mean:.3f}, spread over the image "
            f"{float(metrics['val/mask_spread']):.4f}); {change} objective.area.weight",
            stacklevel=2,
        )
