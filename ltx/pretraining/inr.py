"""INR pretraining: one coordinate network learns the masks of all areas, over many images and without labels."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor

from ltx.draws import Source, row_generators
from ltx.explainers import MaskNetwork
from ltx.fill import Fill
from ltx.objectives import MaskedBatch, Objective, Verdict, classify
from ltx.objectives.areas import AreaSampling, rows_of_areas
from ltx.pretraining.clean_passes import CleanPasses
from ltx.pretraining.ltx import (
    OptimiserConfig,
    mask_statistics,
    over_ranks,
    refuse_nan,
    repeated,
    taught_maps,
)
from ltx.pretraining.mosaics import Own, mosaics, own_logits
from ltx.pretraining.sharding import shard

VALIDATED = (0.05, 0.1, 0.2, 0.5)
"""The areas that validation asks for."""


class INRPretraining(lightning.LightningModule):
    """Area-conditioned masks (Byra & Skibbe, WACV 2025), amortised: the paper fits a network to each image.

    Each image of a step is asked for several areas, drawn anew; they share its features, every mask of every image is a
    row of the objective, and all composites go through the classifier together. The objective's terms say whether the
    kept pixels must preserve the prediction, the removed ones destroy it, or both; that the areas hold needs no term.

    Args:
        explainer: the mask network that is trained, one that takes areas.
        objective: says what a good mask is.
        fill: what stands where pixels are removed in training; validation uses the same, drawn with a fixed seed.
        optimiser: learning rates and their schedule.
        areas: which areas are asked for.
        max_steps: optimiser steps of the whole training, which schedules refer to.
        seed: of the draws of areas, fills, mosaics and terms; together with the step it determines them.
        mosaic: share of the training images that become mosaics of two or four photographs, asked about the class of
            one of them.
        clean_passes: keeps the classifier's passes over whole crops; None = each is made anew.
    """

    def __init__(
        self,
        explainer: MaskNetwork,
        objective: Objective,
        fill: Fill,
        optimiser: OptimiserConfig,
        areas: AreaSampling,
        max_steps: int,
        seed: int = 0,
        mosaic: float = 0.25,
        clean_passes: CleanPasses | None = None,
    ) -> None:
        super().__init__()
        self.explainer = explainer
        self.objective = objective
        self.fill = fill
        self.optimiser = optimiser
        self.areas = areas
        self.max_steps = max_steps
        self.seed = seed
        self.mosaic = mosaic if explainer.conditioned else 0.0
        self.clean_passes = clean_passes

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard(self.explainer, self.device_mesh)

    def on_fit_start(self) -> None:
        self.explainer.classifier.to(self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        generator = row_generators(self.seed, batch["position"])
        images, mixed = mosaics(batch["image"], self.mosaic, generator)
        areas = self.areas.draw(images, generator)
        keys = repeated(batch, mixed)
        own = own_logits(self.explainer.classifier, batch["image"], mixed)
        rows, verdict = self.judge(images, areas, generator, own, batch.get("map"), batch.get("map_target"), keys)
        refuse_nan(verdict, batch["name"], self.global_step)
        loss = verdict.loss.mean()
        # The trainer would go on telling the last value of a term whose weight has become 0.
        unused = torch.full_like(loss.detach(), math.nan)
        log = {f"train/{name}": unused for name in self.objective.terms if self.objective.uses(name)}
        log |= {f"train/{name}": value.detach().mean() for name, value in verdict.terms.items()}
        log |= {f"train/{name}": value for name, value in mask_statistics(rows.mask).items()}
        self.log_dict(over_ranks(self, {"train/loss": loss.detach(), **log}), batch_size=len(images))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]
        generator = row_generators(self.seed, batch["index"])
        areas = images.new_tensor(VALIDATED).expand(len(images), -1)
        rows, verdict = self.judge(images, areas, generator)
        logits = verdict.logits
        if not {"kept", "removed"} <= logits.keys():
            logits = classify(rows, {"kept": rows.mask, "removed": 1 - rows.mask})
        classifier = self.explainer.classifier
        whole = classifier.log_probability(rows.clean, rows.targets).exp()
        log = {f"val/{name}": value.mean() for name, value in verdict.terms.items()}
        log |= {f"val/{name}": value for name, value in mask_statistics(rows.mask).items()}
        for name in ("kept", "removed"):
            share = classifier.log_probability(logits[name], rows.targets).exp() / whole
            log[f"val/{name}"] = share.mean()
            log |= {f"val/{name}_{a:g}": s for a, s in zip(VALIDATED, share.view_as(areas).mean(0), strict=True)}
        log["val/loss"] = verdict.loss.mean()
        # Lightning averages the counts over the ranks too, and would cut the mean of whole numbers to a whole number.
        self.log_dict(log, batch_size=float(len(images)), sync_dist=True, on_epoch=True)  # type: ignore[arg-type]

    def judge(
        self,
        images: Tensor,
        areas: Tensor,
        generator: Source,
        own: Own | None = None,
        maps: Tensor | None = None,
        map_targets: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> tuple[MaskedBatch, Verdict]:
        """Mask the images for their predicted class, once for each area, and let the objective judge each mask.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            areas: `[B, A]`.
            own: which of the images are mosaics, and the logits of the photograph that is looked for in each of them;
                None = no mosaics.
            maps, map_targets: a teacher's maps, `[B, 1, h, w]`, of the classes `[B]`; None = no teacher.
            keys: which crop each image is, see `CleanPasses`; None = crops that do not come again.

        Returns:
            A batch of `B·A` rows, and its verdict.
        """
        if keys is None or self.clean_passes is None:
            clean, found = self.explainer.predict_and_encode(images)
        else:
            clean, found = self.clean_passes(images, keys)
        clean = clean if own is None else own.asked(clean)
        targets = clean.argmax(1)
        scores = self.explainer.decode(found, targets, areas)
        # Masks, composites and losses stay in fp32 whatever the trainer's precision.
        with torch.autocast(self.device.type, enabled=False):
            judged = MaskedBatch(
                classifier=self.explainer.classifier,
                images=images,
                background=self.fill(images, generator),
                targets=targets,
                clean=clean,
                scores=scores.float(),
                mask=self.explainer.masks(scores, areas),
                generator=generator,
                teacher=taught_maps(maps, map_targets, targets, None if own is None else own.mixed),
            )
            rows = rows_of_areas(judged, areas)
            return rows, self.objective(rows, self.global_step / self.max_steps)

    def configure_optimizers(self) -> Any:
        return self.optimiser.build(self.explainer, self.max_steps)
