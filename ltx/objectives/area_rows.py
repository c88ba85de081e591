"""Masks of several areas at once: every area of an image becomes a row of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ltx.objectives.masked_batch import MaskedBatch


def rows_of_areas(batch: MaskedBatch, areas: Tensor) -> MaskedBatch:
    """Turn a batch with several masks per image into one with a row for each mask.

    Args:
        batch: a batch with masks `[B, A, H, W]` and scores `[B, A, h, w]` or, shared by all areas, `[B, 1, h, w]`.
        areas: the areas of the masks, `[B, A]`.

    Returns:
        The same batch with `B·A` rows.
    """
    count = areas.shape[1]

    def repeat(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(count, 0)

    def repeat_optional(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else repeat(tensor)

    generator = batch.generator
    if isinstance(generator, Sequence):
        generator = [row_generator for row_generator in generator for _ in range(count)]
    return replace(
        batch,
        images=repeat(batch.images),
        background=repeat(batch.background),
        targets=repeat(batch.targets),
        unmasked_logits=repeat(batch.unmasked_logits),
        scores=batch.scores.expand(-1, count, -1, -1).flatten(0, 1).unsqueeze(1),
        mask=batch.mask.flatten(0, 1).unsqueeze(1),
        generator=generator,
        teacher=repeat_optional(batch.teacher),
        elsewhere=repeat_optional(batch.elsewhere),
        areas=areas.flatten(),
        allowed=repeat_optional(batch.allowed),
    )
