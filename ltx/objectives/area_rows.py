"""Masks of several areas at once, judged by the same terms: every area of an image is a row."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ltx.objectives.masked_batch import MaskedBatch


def rows_of_areas(batch: MaskedBatch, areas: Tensor) -> MaskedBatch:
    """A batch with masks `[B, A, H, W]` (and scores `[B, A or 1, h, w]`) of areas `[B, A]` as a batch of `B·A` rows."""
    count = areas.shape[1]

    def repeat(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(count, 0)

    generator = batch.generator
    if isinstance(generator, Sequence):
        generator = [each for each in generator for _ in range(count)]
    return MaskedBatch(
        classifier=batch.classifier,
        images=repeat(batch.images),
        background=repeat(batch.background),
        targets=repeat(batch.targets),
        unmasked_logits=repeat(batch.unmasked_logits),
        scores=batch.scores.expand(-1, count, -1, -1).flatten(0, 1).unsqueeze(1),
        mask=batch.mask.flatten(0, 1).unsqueeze(1),
        generator=generator,
        shared_draws=batch.shared_draws,
        teacher=None if batch.teacher is None else repeat(batch.teacher),
        elsewhere=None if batch.elsewhere is None else repeat(batch.elsewhere),
        areas=areas.flatten(),
        allowed=None if batch.allowed is None else repeat(batch.allowed),
        jitter=batch.jitter,
    )
