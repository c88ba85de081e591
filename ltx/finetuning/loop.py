"""The optimisation loop of per-image finetuning: all images of a chunk take each step together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ltx.finetuning.parameter_copies import Copies
from ltx.finetuning.selection import Selection
from ltx.masking.area_sampling import AreaSampling
from ltx.masking.fill import Fill
from ltx.masking.jitter import draw_jitter
from ltx.objectives.area_rows import rows_of_areas
from ltx.objectives.masked_batch import MaskedBatch
from ltx.objectives.objective import Objective
from ltx.runtime.errors import InputError
from ltx.runtime.seeds import seeded


@dataclass(frozen=True)
class Chunk:
    """Images that are adapted at once.

    Attributes:
        images: `[B, 3, H, W]` in [0, 1].
        targets: target classes, `[B]`.
        unmasked_logits: logits of the unmasked forward pass, `[B, K]`.
        allowed: pixels that a mask may keep, `[B, 1, H, W]`; None = all of them.
    """

    images: Tensor
    targets: Tensor
    unmasked_logits: Tensor
    allowed: Tensor | None


@dataclass(frozen=True)
class LoopSettings:
    """`FinetuneSettings` with all defaults filled in."""

    steps: int
    lr: float
    objective: Objective
    fill: Fill
    areas: AreaSampling
    select_by: str | None
    seed: int
    jitter: int
    alternate: bool = False
    on_step: Callable[[int], bool] | None = None


def adapt(copies: Copies, chunk: Chunk, settings: LoopSettings) -> Tensor:
    """Optimise the copies of the explainer's parameters, one per image.

    Returns:
        Maps `[B, 1, H, W]` after the last step, or the best of those before each step by `select_by`.

    Raises:
        InputError: a loss or a mask is not finite.
    """
    explainer, allowed = copies.explainer, chunk.allowed
    # Where a gradient is zero up to rounding, Adam's normalisation would turn it into a full step. A larger eps makes
    # an image's result independent of the batch.
    # Fused, each parameter is read once per step instead of seven times.
    optimiser = torch.optim.AdamW(copies.leaves(), lr=settings.lr, weight_decay=0.0, eps=1e-6, fused=True)
    generator = seeded(settings.seed)
    select: Selection | None = None
    if settings.select_by is not None:
        select = Selection(settings.select_by, explainer, chunk.images, chunk.targets, chunk.unmasked_logits)
    turns = [settings]
    if settings.alternate:
        turns = [replace(settings, objective=turn) for turn in settings.objective.turns()]
    losses: list[Tensor] = []
    for step in range(settings.steps):
        if settings.on_step is not None and not settings.on_step(step):
            break
        scores, areas = draw_scores(copies, chunk, settings.areas, generator)
        if select is not None:  # as in the released code: before each update, so not after the last one
            with torch.no_grad():
                masks = explainer.masks(scores, allowed=allowed)
            try:
                select.update(masks)
            except InputError:  # masks that are not finite have no ranking; the cause is a step before
                _refuse_nan(losses, masks, settings.lr)
                raise
            if select.finished:
                _refuse_nan(losses, select.masks, settings.lr)
                return select.masks
        loss = step_loss(copies, chunk, scores, areas, turns[step % len(turns)], generator)
        losses.append(loss.detach())
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    if select is not None and losses:
        _refuse_nan(losses, select.masks, settings.lr)
        return select.masks
    with torch.no_grad():
        maps = explainer.masks(copies.scores(chunk.targets), allowed=allowed).mean(1, keepdim=True)
    _refuse_nan(losses, maps, settings.lr)
    return maps


def draw_scores(
    copies: Copies, chunk: Chunk, areas: AreaSampling, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Scores `[B, A, h, w]` of a step, and the areas `[B, A]` drawn for networks that take them."""
    drawn = areas.draw(chunk.images, generator, shared=True) if copies.explainer.takes_areas else None
    return copies.scores(chunk.targets, drawn).float(), drawn


def step_loss(
    copies: Copies,
    chunk: Chunk,
    scores: Tensor,
    areas: Tensor | None,
    settings: LoopSettings,
    generator: torch.Generator,
) -> Tensor:
    """The loss of each image in one step, `[B]`.

    Args:
        copies: the adapted parameters.
        chunk: the images.
        scores: scores `[B, A, h, w]`.
        areas: the areas of the scores, `[B, A]`, for networks that take areas.
        settings: see `LoopSettings`.
        generator: random generator of fill, jitter and terms.
    """
    explainer = copies.explainer
    batch = MaskedBatch(
        classifier=explainer.classifier,
        images=chunk.images,
        background=settings.fill(chunk.images, generator, shared=True),
        targets=chunk.targets,
        unmasked_logits=chunk.unmasked_logits,
        scores=scores,
        mask=explainer.masks(scores, areas, chunk.allowed),
        generator=generator,
        shared_draws=True,
        allowed=chunk.allowed,
        jitter=draw_jitter(settings.jitter, generator),
    )
    if areas is None:
        return settings.objective(batch, progress=1.0).loss
    return settings.objective(rows_of_areas(batch, areas), progress=1.0).loss.view_as(areas).mean(1)


def _refuse_nan(losses: list[Tensor], maps: Tensor, lr: float) -> None:
    """Check after the last step that all losses and maps are finite: a check after every step would stall a GPU."""
    damage = "before the first update; check the checkpoint and the classifier's weights"
    if losses:
        finite = torch.stack(losses).isfinite().all(1).tolist()
        if not all(finite):
            step = finite.index(False)
            when = f"at step {step}; lower lr={lr}" if step else damage
            raise InputError(f"finetuning: the loss is not finite {when}")
    if not bool(maps.isfinite().all()):
        when = f"after {len(losses)} steps; lower lr={lr}" if losses else damage
        raise InputError(f"finetuning: the masks are not finite {when}")
