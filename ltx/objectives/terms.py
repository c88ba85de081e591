"""The interface of a term."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


class Term(Protocol):
    """One term of the objective: a dataclass of settings, each an `ltx.config.options.option`.

    `Objective` replaces schedules of its settings by their values before it calls a term.

    Attributes:
        weight: a number, or a schedule (see `ltx.config.schedules`).
        only_in_training: whether the term needs data that only training has, so that finetuning leaves it out.
    """

    weight: Any
    only_in_training: ClassVar[bool]

    def masks(self, batch: MaskedBatch) -> dict[str, Tensor] | None:
        """Masks `[B, 1, H, W]` by name, whose masked images the term needs classified.

        Masks of equal name, from several terms, are classified once. None if the batch lacks the term's reference
        data; the term is then left out.
        """

    def __call__(self, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        """The unweighted value of the term, `[B]`.

        Args:
            batch: images with their masks.
            logits: `[B, K]` for the name of each mask that the terms requested.
        """
