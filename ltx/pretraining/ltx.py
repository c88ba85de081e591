"""LTX pretraining: a mask network learns from a frozen classifier's own predictions, without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from ltx.config.schedules import Scheduled, value_at
from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.fill import Fill
from ltx.objectives.area_rows import rows_of_areas
from ltx.objectives.masked_batch import MaskedBatch, classify
from ltx.objectives.objective import Objective, Verdict
from ltx.pretraining.fsdp import shard_explainer
from ltx.pretraining.mosaics import MosaicTargets, make_mosaics, mosaic_targets
from ltx.pretraining.settings import OptimiserConfig
from ltx.pretraining.unmasked_passes import UnmaskedPasses
from ltx.runtime.errors import InputError
from ltx.runtime.seeds import Source, row_generators

SATURATED = 0.05
"""A mask value within this distance of 0 or 1 counts as saturated."""


class LTXPretraining(lightning.LightningModule):
    """Counterfactual masked prediction (LTX, ICDM 2023): kept pixels preserve the prediction, removed ones destroy it.

    A step takes one forward pass of the classifier over the full images (for the targets, a shared trunk and the KL
    term) and one forward and backward pass to the mask over all masked images. The classifier is an attribute of the
    mask network but not a submodule: it is neither trained, saved nor synchronised.

    Args:
        explainer: the mask network to train.
        objective: the weighted terms that define a good mask.
        fill: fill for removed pixels in training; validation uses the same fill with a fixed random seed.
        optimiser: learning rates and their schedule.
        max_steps: optimiser steps of the whole training, to which schedules refer.
        seed: random seed of fills, mosaics and terms. Draws depend on it and on an image's position in the stream of
            training images, so neither a resumption nor the number of devices changes them.
        mosaic: share of the training images that become mosaics of two or four photographs, explained for the class of
            one of them, or a schedule of it. Ignored for an explainer that is not conditioned on the class.
        unmasked_passes: cache of the classifier's passes over full crops; None = recompute each.
    """

    def __init__(
        self,
        explainer: MaskNetwork,
        objective: Objective,
        fill: Fill,
        optimiser: OptimiserConfig,
        max_steps: int,
        seed: int = 0,
        mosaic: Scheduled = 0.25,
        unmasked_passes: UnmaskedPasses | None = None,
    ) -> None:
        super().__init__()
        self.explainer = explainer
        self.objective = objective
        self.fill = fill
        self.optimiser = optimiser
        self.max_steps = max_steps
        self.seed = seed
        self.mosaic: Scheduled = mosaic if explainer.conditioned else 0.0
        self.unmasked_passes = unmasked_passes
        self._validated = 0

    @property
    def progress(self) -> float:
        """Progress of the training in [0, 1], at which schedules are read; 1 in validation.

        Validations evaluate the objective with which the training ends, so that they can be compared.
        """
        return self.global_step / self.max_steps if self.training else 1.0

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard_explainer(self.explainer, self.device_mesh)

    def on_fit_start(self) -> None:
        self.explainer.classifier.to(self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        generator = row_generators(self.seed, batch["position"])
        mosaics = make_mosaics(batch["image"], value_at(self.mosaic, self.progress), generator)
        masked, verdict = self.evaluate_objective(
            mosaics.images,
            generator,
            self.training_areas(mosaics.images, generator),
            mosaic_targets(self.explainer.classifier, batch["image"], mosaics),
            (batch["map"], batch["map_target"]) if "map" in batch else None,
            cache_keys(batch, mosaics.is_mosaic),
        )
        loss = verdict.loss.mean()
        raise_if_not_finite(verdict, batch["name"], self.global_step)
        # NaN replaces the previous value, which Lightning would otherwise keep logging once a term's weight is 0.
        unused = torch.full_like(loss.detach(), math.nan)
        log = {f"train/{name}": unused for name in self.objective.terms if self.objective.uses(name)}
        log |= {f"train/{name}": value.detach().mean() for name, value in verdict.terms.items()}
        log |= {f"train/{name}": value for name, value in mask_statistics(masked.mask).items()}
        if masked.teacher is not None:
            log["train/taught"] = (masked.teacher.flatten(1).std(1) > 0).float().mean()
        self.log_dict(mean_over_ranks(self, {"train/loss": loss.detach(), **log}), batch_size=len(mosaics.images))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]
        self._validated += len(images)
        generator = row_generators(self.seed, batch["index"])
        masked, verdict = self.evaluate_objective(images, generator, self.validation_areas(images))
        logits = verdict.logits
        if not {"kept", "removed"} <= logits.keys():
            logits = classify(masked, {"kept": masked.mask, "removed": 1 - masked.mask})
        full = self._probability(masked.unmasked_logits, masked.targets)
        log = {f"val/{name}": value.mean() for name, value in verdict.terms.items()}
        log |= {f"val/{name}": value for name, value in mask_statistics(masked.mask).items()}
        for name in ("kept", "removed"):
            log |= self.validation_scores(name, self._probability(logits[name], masked.targets) / full)
        order = [key for key in verdict.logits if key.startswith("ranking kept ")]
        if order:
            log["val/order"] = torch.stack([self._order(verdict.logits, key, masked.targets) for key in order]).mean()
        log["val/loss"] = verdict.loss.mean()
        # A float: Lightning averages the batch sizes over ranks, and would truncate the mean of integers.
        self.log_dict(log, batch_size=float(len(images)), sync_dist=True, on_epoch=True)  # type: ignore[arg-type]

    def on_validation_epoch_start(self) -> None:
        self._validated = 0

    def on_validation_epoch_end(self) -> None:
        if not self._validated:  # the other ranks would wait for this rank's share of the scores
            raise InputError(
                "none of the validation images of one of the processes can be read; the warnings above name them, "
                "give more or other ones by data.val_share or data.val_images"
            )

    def evaluate_objective(
        self,
        images: Tensor,
        generator: Source,
        areas: Tensor | None = None,
        mosaics: MosaicTargets | None = None,
        teacher: tuple[Tensor, Tensor] | None = None,
        keys: Tensor | None = None,
    ) -> tuple[MaskedBatch, Verdict]:
        """Mask the images for their predicted class and evaluate the objective.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            generator: source of random draws, one or one for each image.
            areas: requested areas of the masks, `[B, A]`; None = one mask an image, of the network's own area.
            mosaics: which images are mosaics, and the logits for their own photograph; None = no mosaics.
            teacher: a teacher's maps of the images before they became mosaics, `[B, 1, h, w]`, and the classes `[B]`
                that the maps explain; None = no teacher.
            keys: keys of the crops, see `UnmaskedPasses`; None = crops that are not repeated.

        Returns:
            The batch of `B` rows (`B·A` with areas) and the objective's terms for it.
        """
        if keys is None or self.unmasked_passes is None:
            logits, features = self.explainer.predict_and_encode(images)
        else:
            logits, features = self.unmasked_passes(images, keys)
        is_mosaic = elsewhere = None
        if mosaics is not None:
            logits, is_mosaic = mosaics.replace_logits(logits), mosaics.is_mosaic
        targets = logits.argmax(1)
        if mosaics is not None:
            elsewhere = mosaics.elsewhere(self.explainer.classifier, logits, targets)
        scores = self.explainer.decode(features, targets, areas)
        # Masks, masked images and losses stay in fp32, whatever the trainer's precision.
        with torch.autocast(self.device.type, enabled=False):
            masked = MaskedBatch(
                classifier=self.explainer.classifier,
                images=images,
                background=self.fill(images, generator),
                targets=targets,
                unmasked_logits=logits,
                scores=scores.float(),
                mask=self.explainer.masks(scores, areas),
                generator=generator,
                teacher=None if teacher is None else applicable_maps(*teacher, targets, is_mosaic),
                elsewhere=elsewhere,
            )
            masked = masked if areas is None else rows_of_areas(masked, areas)
            return masked, self.objective(masked, self.progress)

    # Overridden by `INRPretraining`, whose network takes areas.

    def training_areas(self, images: Tensor, generator: Source) -> Tensor | None:
        """Areas `[B, A]` of a training step's masks; None = the network chooses the area of its one mask."""
        return None

    def validation_areas(self, images: Tensor) -> Tensor | None:
        """Areas `[B, A]` of the masks in validation; None = the network chooses the area of its one mask."""
        return None

    def validation_scores(self, name: str, share: Tensor) -> dict[str, Tensor]:
        """Validation scores by name, from `share`: the class's masked probability over its unmasked one, `[B]`.

        Args:
            name: `kept` or `removed`, the pixels that are visible or not.
            share: one value for each row of the masked batch.
        """
        return {f"val/{name}": share.mean()}

    def configure_optimizers(self) -> Any:
        return self.optimiser.build(self.explainer, self.max_steps)

    def _order(self, logits: dict[str, Tensor], kept: str, targets: Tensor) -> Tensor:
        """Probability with the pixels of a ranking mask, minus that without them: an estimate of INS - DEL."""
        removed = logits[kept.replace("kept", "removed")]
        return (self._probability(logits[kept], targets) - self._probability(removed, targets)).mean()

    def _probability(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.explainer.classifier.log_probability(logits, targets).exp()


def cache_keys(batch: dict[str, Any], is_mosaic: Tensor) -> Tensor | None:
    """Cache keys `[B]` of a batch's crops, on the CPU, -1 for mosaics; None = crops are not repeated."""
    if "crop" not in batch:
        return None
    crops: Tensor = batch["crop"]  # on the CPU, see `TrainingImages.transfer_batch_to_device`
    return crops.masked_fill(is_mosaic, -1)


def applicable_maps(maps: Tensor, map_targets: Tensor, targets: Tensor, is_mosaic: Tensor | None) -> Tensor:
    """A teacher's maps `[B, 1, h, w]`, set to zero where they do not apply.

    The teacher explains whole photographs: a crop may have another predicted class, and a mosaic has no map.

    Args:
        maps: `[B, 1, h, w]`.
        map_targets: the classes that the maps explain, `[B]`.
        targets: the target classes of the images, `[B]`.
        is_mosaic: which images are mosaics, `[B]`; None = none.
    """
    applicable = torch.eq(map_targets, targets)
    if is_mosaic is not None:
        applicable = applicable & ~is_mosaic
    return torch.where(applicable.view(-1, 1, 1, 1), maps, torch.zeros_like(maps))


def mean_over_ranks(module: lightning.LightningModule, log: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over all ranks, in one exchange, at the steps that are logged; at other steps this rank's values."""
    due = (module.global_step + 1) % module.trainer.log_every_n_steps == 0  # type: ignore[attr-defined] # undeclared
    if module.trainer.world_size == 1 or not due:
        return log
    gathered: Any = module.all_gather(torch.stack(list(log.values())))
    return dict(zip(log, gathered.mean(0), strict=True))


def raise_if_not_finite(verdict: Verdict, names: Sequence[str], step: int) -> None:
    """Stop the training at a loss that is not finite.

    Args:
        verdict: the objective's terms, with equally many rows for each image.
        names: names of the images.
        step: the current step.

    Raises:
        InputError: some term is not finite; names the terms, the images and the step.
    """
    finite = torch.stack([value.detach().isfinite() for value in verdict.terms.values()])
    if finite.all():
        return
    terms = [name for name, fine in zip(verdict.terms, finite.all(1).tolist(), strict=True) if not fine]
    finite_images = finite.all(0).view(len(names), -1).all(1).tolist()
    images = [name for name, fine in zip(names, finite_images, strict=True) if not fine]
    more = f" and {len(images) - 4} more of the batch" if len(images) > 4 else ""
    raise InputError(
        f"the term {', '.join(terms)} is not finite at step {step}, for the images {', '.join(images[:4])}{more}; the "
        "last checkpoint is intact. Lower optimiser.lr, or use classifier.precision=fp32"
    )


def mask_statistics(mask: Tensor) -> dict[str, Tensor]:
    """Mean, standard deviation over the pixels, and saturated share of masks `[B, 1, H, W]`, averaged over a batch."""
    pixels = mask.detach().flatten(1)
    saturated = ((pixels < SATURATED) | (pixels > 1 - SATURATED)).float().mean()
    return {"mask_mean": pixels.mean(), "mask_spread": pixels.std(1).mean(), "mask_saturated": saturated}
