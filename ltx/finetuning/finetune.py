"""Per-image finetuning: each image adapts its own copy of the explainer's parameters, many images at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ltx.classifier.class_names import Target, Targets, one_each
from ltx.explainers.mask_network import MaskNetwork, checked_images, evaluating
from ltx.finetuning.loop import Chunk, LoopSettings, adapt
from ltx.finetuning.parameter_copies import Copies
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.finetuning.training_defaults import learning_rate, trained_areas, trained_objective
from ltx.masking.fill import Fill
from ltx.objectives.objective import Objective
from ltx.results.building import Provenance, build_explanation
from ltx.results.explanation import Explanation
from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import takes


@torch.inference_mode(False)
@torch.enable_grad()
@takes(allowed="real [B, 1, H, W]")
def finetune(
    explainer: MaskNetwork,
    images: Tensor,
    targets: Targets = None,
    steps: int = 25,
    settings: FinetuneSettings | None = None,
    *,
    names: list[str] | None = None,
    allowed: Tensor | None = None,
    starts: Sequence[MaskNetwork] | None = None,
) -> Explanation:
    """Adapt an explainer to each image and explain the images; the explainer itself does not change.

    Every image has its own copy of the adapted parameters. The copies are stacked along a first axis and trained
    together: AdamW works elementwise, the losses are summed, and random draws are shared by all images. An image's
    result therefore depends on its neighbours only by rounding. This is 1e-5 of the mask after one step, but finetuning
    amplifies it: after five steps, single pixels differ by a half. The same batch gives the same bytes.

    With `settings.detail`, the copies for a vision transformer begin with the explainer's masks, which have one value
    per patch, and learn detail within the patches, see `ltx.explainers.detail.PatchDetail`.

    A step takes one pass of the decoder, and one of the classifier over all masked images, both forwards and
    backwards. The trunk's features are computed once if the trunk is not adapted. The result is the mask of the last
    step, unless `settings.select_by` is set.

    Args:
        explainer: a trained mask network; `explainer.classifier` is explained.
        images: `[B, 3, H, W]` in [0, 1], at the classifier's input size.
        targets: target classes; None = the predicted ones.
        steps: optimiser steps for each image; 0 = one forward pass.
        settings: how the explainer is adapted; None = the defaults.
        names: one name per image.
        allowed: `[B, 1, H, W]` in [0, 1], pixels that a mask may keep; None = all of them.
        starts: networks whose parameters the copies start from, one per image; None = the explainer's.

    Raises:
        InputError: a setting or class is not valid; the images have a wrong shape or range; `names`, `allowed` or
            `starts` do not match them; or a loss or mask is not finite.
    """
    settings = FinetuneSettings() if settings is None else settings
    if steps < 0:
        raise InputError(f"steps={steps}; need steps >= 0")
    batch = _check_batch(explainer, images, targets, names, allowed, starts)
    resolved = resolve(explainer, steps, settings)
    started = time.perf_counter()
    with evaluating(explainer):
        network = explainer
        if steps and settings.detail:
            network = explainer.with_detail()
            batch = replace(batch, starts=batch.starts and [start.with_detail() for start in batch.starts])
        adapted = [
            _adapt_chunk(network, batch, slice(first, first + settings.max_batch), settings.scope, resolved)
            for first in range(0, len(batch.images), settings.max_batch)
        ]
    seconds = (time.perf_counter() - started) / len(batch.images)
    selected_by = settings.select_by if steps else None
    provenance = Provenance(
        explainer.method, resolved.fill, names, steps, seconds, selected_by, max_batch=settings.max_batch
    )
    return _explanation(explainer, batch.images, adapted, provenance)


def resolve(explainer: MaskNetwork, steps: int, settings: FinetuneSettings) -> LoopSettings:
    """Fill in the defaults that depend on the explainer.

    Raises:
        InputError: the scope is unknown, `select_by` is given for a network that takes areas, or no term of the
            objective can be finetuned.
    """
    if settings.select_by is not None and explainer.takes_areas:
        raise InputError(
            f"select_by={settings.select_by} selects one map; this explainer has one for every area: leave it out"
        )
    explainer.scope(settings.scope)
    objective = settings.objective or Objective(trained_objective(explainer, keep=settings.keep))
    weights = objective.weights(1.0)
    if steps and not any(weight for name, weight in weights.items() if not objective.terms[name].only_in_training):
        training_terms = ", ".join(name for name, term in objective.terms.items() if term.only_in_training)
        raise InputError(
            f"at the end of its training, this objective has no term of positive weight besides {training_terms}, "
            "which finetuning lacks"
        )
    return LoopSettings(
        steps=steps,
        lr=learning_rate(explainer, settings.scope) if settings.lr is None else settings.lr,
        objective=objective,
        fill=settings.fill if isinstance(settings.fill, Fill) else Fill(settings.fill),
        areas=trained_areas(explainer) if settings.areas is None else settings.areas,
        select_by=settings.select_by,
        seed=settings.seed,
        jitter=settings.jitter,
        alternate=settings.alternate,
        on_step=settings.on_step,
    )


@dataclass(frozen=True)
class _Batch:
    """Validated arguments of `finetune`, with one row or entry per image."""

    images: Tensor
    classes: list[Target] | None
    allowed: Tensor | None
    starts: Sequence[MaskNetwork] | None


def _check_batch(
    explainer: MaskNetwork,
    images: Tensor,
    targets: Targets,
    names: list[str] | None,
    allowed: Tensor | None,
    starts: Sequence[MaskNetwork] | None,
) -> _Batch:
    images = checked_images(explainer.classifier, images)
    listed = one_each(targets, len(images))
    classes = None if listed is None else explainer.classifier.classes(listed)
    if names is not None and len(names) != len(images):
        raise InputError(f"{len(names)} names for {len(images)} images; give one for each image")
    if starts is not None and len(starts) != len(images):
        raise InputError(f"starts: {len(starts)} networks for {len(images)} images; give one for each image")
    if allowed is not None:
        allowed = allowed.to(images)
        shape = (len(images), 1, *images.shape[-2:])
        if tuple(allowed.shape) != shape:
            raise InputError(f"allowed has shape {tuple(allowed.shape)}; give {shape}")
        if not bool(((allowed >= 0) & (allowed <= 1)).all()):
            raise InputError(f"allowed has values from {allowed.min():g} to {allowed.max():g}; give shares from 0 to 1")
    return _Batch(images, classes, allowed, starts)


@dataclass(frozen=True)
class _AdaptedChunk:
    """A finished chunk; its copies are kept for networks that take areas."""

    copies: Copies | None
    chunk: Chunk
    maps: Tensor

    def masks(self, areas: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Masks `[B, A, h, w]` of areas `[B, A]`."""
        assert self.copies is not None
        scores = self.copies.scores(self.chunk.targets, areas, size)
        return self.copies.explainer.masks(scores, areas, self.chunk.allowed, size)


def _adapt_chunk(
    explainer: MaskNetwork, batch: _Batch, rows: slice, scope: str, settings: LoopSettings
) -> _AdaptedChunk:
    images = batch.images[rows]
    with torch.no_grad():
        unmasked_logits, features = explainer.predict_and_encode(images)
    targets = explainer.classifier.targets(None if batch.classes is None else batch.classes[rows], unmasked_logits)
    starts = None if batch.starts is None else batch.starts[rows]
    copies = Copies(explainer, scope, len(images), features, images, starts)
    chunk = Chunk(images, targets, unmasked_logits, None if batch.allowed is None else batch.allowed[rows])
    maps = adapt(copies, chunk, settings)
    # Release per-chunk copies and gradients so that memory stays bounded.
    copies.finish()
    return _AdaptedChunk(copies if explainer.takes_areas else None, chunk, maps)


def _explanation(
    explainer: MaskNetwork, images: Tensor, adapted: list[_AdaptedChunk], provenance: Provenance
) -> Explanation:
    def ask(areas: Tensor, size: tuple[int, int] | None) -> Tensor:
        parts = zip(adapted, torch.split(areas, provenance.max_batch), strict=True)
        return torch.cat([part.masks(requested, size) for part, requested in parts])

    return build_explanation(
        explainer.classifier,
        images,
        torch.cat([part.maps for part in adapted]),
        torch.cat([part.chunk.targets for part in adapted]),
        torch.cat([part.chunk.unmasked_logits for part in adapted]),
        provenance,
        ask if explainer.takes_areas else None,
    )
