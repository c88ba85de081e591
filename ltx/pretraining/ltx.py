"""LTX pretraining: a mask network learns from a frozen classifier's own predictions, without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.fill import Fill
from ltx.objectives.area_rows import rows_of_areas
from ltx.objectives.masked_batch import MaskedBatch, classify
from ltx.objectives.objective import Objective, Verdict
from ltx.pretraining.fsdp import shard
from ltx.pretraining.mosaics import Own, mosaics, own_logits
from ltx.pretraining.settings import OptimiserConfig
from ltx.pretraining.unmasked_passes import UnmaskedPasses
from ltx.runtime.errors import InputError
from ltx.runtime.seeds import Source, row_generators

SATURATED = 0.05
"""A mask value this near to 0 or 1 counts as saturated."""


class LTXPretraining(lightning.LightningModule):
    """Counterfactual masked prediction (LTX, ICDM 2023): kept pixels preserve the prediction, removed ones destroy it.

    A step takes one pass of the classifier over the whole images (shared by the targets, a shared trunk and the
    KL term) and one, forwards and backwards to the mask, over all masked images. The explained classifier is an
    attribute of the mask network and no module: it is neither trained, saved nor synchronised.

    Args:
        explainer: the mask network that is trained.
        objective: says what a good mask is.
        fill: what stands where pixels are removed in training; validation uses the same, drawn with a fixed seed.
        optimiser: learning rates and their schedule.
        max_steps: optimiser steps of the whole training, which schedules refer to.
        seed: of the draws of fills, mosaics and terms. Together with the image's position in the training's stream it
            determines them, so that neither a resumption nor the number of devices changes them.
        mosaic: share of the training images that become mosaics of two or four photographs, asked about the class of
            one of them.
        unmasked_passes: keeps the classifier's passes over whole crops; None = each is made anew.
    """

    def __init__(
        self,
        explainer: MaskNetwork,
        objective: Objective,
        fill: Fill,
        optimiser: OptimiserConfig,
        max_steps: int,
        seed: int = 0,
        mosaic: float = 0.25,
        unmasked_passes: UnmaskedPasses | None = None,
    ) -> None:
        super().__init__()
        self.explainer = explainer
        self.objective = objective
        self.fill = fill
        self.optimiser = optimiser
        self.max_steps = max_steps
        self.seed = seed
        self.mosaic = mosaic if explainer.conditioned else 0.0
        self.unmasked_passes = unmasked_passes
        self._validated = 0

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard(self.explainer, self.device_mesh)

    def on_fit_start(self) -> None:
        self.explainer.classifier.to(self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        generator = row_generators(self.seed, batch["position"])
        made = mosaics(batch["image"], self.mosaic, generator)
        images, keys = made.images, repeated(batch, made.mixed)
        areas = self.areas_in_training(images, generator)
        own = own_logits(self.explainer.classifier, batch["image"], made)
        judged, verdict = self.judge(images, generator, areas, own, batch.get("map"), batch.get("map_target"), keys)
        loss = verdict.loss.mean()
        refuse_nan(verdict, batch["name"], self.global_step)
        # The trainer would go on telling the last value of a term whose weight has become 0.
        unused = torch.full_like(loss.detach(), math.nan)
        log = {f"train/{name}": unused for name in self.objective.terms if self.objective.uses(name)}
        log |= {f"train/{name}": value.detach().mean() for name, value in verdict.terms.items()}
        log |= {f"train/{name}": value for name, value in mask_statistics(judged.mask).items()}
        if judged.teacher is not None:
            log["train/taught"] = (judged.teacher.flatten(1).std(1) > 0).float().mean()
        self.log_dict(over_ranks(self, {"train/loss": loss.detach(), **log}), batch_size=len(images))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]
        self._validated += len(images)
        generator = row_generators(self.seed, batch["index"])
        judged, verdict = self.judge(images, generator, self.areas_in_validation(images))
        logits = verdict.logits
        if not {"kept", "removed"} <= logits.keys():
            logits = classify(judged, {"kept": judged.mask, "removed": 1 - judged.mask})
        whole = self._probability(judged.unmasked_logits, judged.targets)
        log = {f"val/{name}": value.mean() for name, value in verdict.terms.items()}
        log |= {f"val/{name}": value for name, value in mask_statistics(judged.mask).items()}
        for name in ("kept", "removed"):
            log |= self.shares(name, self._probability(logits[name], judged.targets) / whole)
        log["val/loss"] = verdict.loss.mean()
        # Lightning averages the counts over the ranks too, and would cut the mean of whole numbers to a whole number.
        self.log_dict(log, batch_size=float(len(images)), sync_dist=True, on_epoch=True)  # type: ignore[arg-type]

    def on_validation_epoch_start(self) -> None:
        self._validated = 0

    def on_validation_epoch_end(self) -> None:
        if not self._validated:  # the other ranks would wait for its share of the scores
            raise InputError(
                "none of the validation images of one of the processes can be read; the warnings above name them, "
                "give more or other ones by data.val_share or data.val_images"
            )

    def judge(
        self,
        images: Tensor,
        generator: Source,
        areas: Tensor | None = None,
        own: Own | None = None,
        maps: Tensor | None = None,
        map_targets: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> tuple[MaskedBatch, Verdict]:
        """Mask the images for their predicted class and let the objective judge.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            areas: the areas `[B, A]` of the masks; None = one mask of each image, of the network's choice.
            own: which of the images are mosaics, and the logits of the photograph that is looked for in each of them;
                None = no mosaics.
            maps: a teacher's maps of the images before they were mixed, `[B, 1, h, w]`; None = no teacher.
            map_targets: the classes that `maps` explain, `[B]`.
            keys: which crop each image is, see `UnmaskedPasses`; None = crops that do not come again.

        Returns:
            The batch of `B` rows (`B·A` with areas), and its verdict.
        """
        if keys is None or self.unmasked_passes is None:
            unmasked_logits, found = self.explainer.predict_and_encode(images)
        else:
            unmasked_logits, found = self.unmasked_passes(images, keys)
        unmasked_logits = unmasked_logits if own is None else own.asked(unmasked_logits)
        targets = unmasked_logits.argmax(1)
        scores = self.explainer.decode(found, targets, areas)
        # Masks, masked images and losses stay in fp32 whatever the trainer's precision.
        with torch.autocast(self.device.type, enabled=False):
            judged = MaskedBatch(
                classifier=self.explainer.classifier,
                images=images,
                background=self.fill(images, generator),
                targets=targets,
                unmasked_logits=unmasked_logits,
                scores=scores.float(),
                mask=self.explainer.masks(scores, areas),
                generator=generator,
                teacher=taught_maps(maps, map_targets, targets, None if own is None else own.mixed),
                elsewhere=None if own is None else own.elsewhere(self.explainer.classifier, unmasked_logits, targets),
            )
            judged = judged if areas is None else rows_of_areas(judged, areas)
            return judged, self.objective(judged, self.global_step / self.max_steps)

    # A network that takes areas is asked for several masks of each image: see `INRPretraining`.

    def areas_in_training(self, images: Tensor, generator: Source) -> Tensor | None:
        """The areas `[B, A]` that a step asks for; None = the network chooses the area of its one mask."""
        return None

    def areas_in_validation(self, images: Tensor) -> Tensor | None:
        """The areas `[B, A]` that validation asks for."""
        return None

    def shares(self, name: str, share: Tensor) -> dict[str, Tensor]:
        """What validation tells of shares `[B]` of the class's probability, those kept or those left by removal."""
        return {f"val/{name}": share.mean()}

    def configure_optimizers(self) -> Any:
        return self.optimiser.build(self.explainer, self.max_steps)

    def _probability(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.explainer.classifier.log_probability(logits, targets).exp()


def repeated(batch: dict[str, Any], mixed: Tensor) -> Tensor | None:
    """The keys `[B]` of a batch's crops, on the CPU, -1 where mosaics took their place; None = no crop comes again."""
    if "crop" not in batch:
        return None
    return batch["crop"].cpu().masked_fill(mixed.cpu(), -1)


def taught_maps(
    maps: Tensor | None, map_targets: Tensor | None, targets: Tensor, mixed: Tensor | None
) -> Tensor | None:
    """A teacher's maps `[B, 1, h, w]`, constant where it taught something else than what is asked.

    A crop may show another class than its picture, and of a mosaic the teacher knows nothing.
    """
    if maps is None or map_targets is None:
        return None
    taught = torch.eq(map_targets, targets)
    if mixed is not None:
        taught = taught & ~mixed
    return torch.where(taught.view(-1, 1, 1, 1), maps, torch.zeros_like(maps))


def over_ranks(module: lightning.LightningModule, log: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means of the global batch, in one exchange, at the steps that are written down; else this rank's."""
    due = (module.global_step + 1) % module.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
    if module.trainer.world_size == 1 or not due:
        return log
    together: Any = module.all_gather(torch.stack(list(log.values())))
    return dict(zip(log, together.mean(0), strict=True))


def refuse_nan(verdict: Verdict, names: Sequence[str], step: int) -> None:
    """Stop the training at a loss that is not finite; every image, by its name, has equally many rows of it.

    Raises:
        InputError: which names the terms, the images and the step.
    """
    finite = torch.stack([value.detach().isfinite() for value in verdict.terms.values()])
    if finite.all():
        return
    terms = [name for name, fine in zip(verdict.terms, finite.all(1).tolist(), strict=True) if not fine]
    whole = finite.all(0).view(len(names), -1).all(1).tolist()
    images = [name for name, fine in zip(names, whole, strict=True) if not fine]
    more = f" and {len(images) - 4} more of the batch" if len(images) > 4 else ""
    raise InputError(
        f"the term {', '.join(terms)} is not finite at step {step}, for the images {', '.join(images[:4])}{more}; the "
        "last checkpoint is intact. Lower optimiser.lr, or use classifier.precision=fp32"
    )


def mask_statistics(mask: Tensor) -> dict[str, Tensor]:
    """Mean, spread over the image's pixels, and saturated share of masks `[B, 1, H, W]`, averaged over the batch."""
    pixels = mask.detach().flatten(1)
    saturated = ((pixels < SATURATED) | (pixels > 1 - SATURATED)).float().mean()
    return {"mask_mean": pixels.mean(), "mask_spread": pixels.std(1).mean(), "mask_saturated": saturated}
