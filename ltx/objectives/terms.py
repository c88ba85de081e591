"""The interface of a term."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from ltx.runtime.errors import InputError
from ltx.runtime.tensor_arguments import Expected, check_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from ltx.objectives.masked_batch import MaskedBatch


AnyTerm = TypeVar("AnyTerm")
Call = Callable[[AnyTerm, "MaskedBatch", "dict[str, Tensor]"], "Tensor"]


def checks_logits(call: Call[AnyTerm]) -> Call[AnyTerm]:
    """Decorator of a term's `__call__` that checks the logits of each mask."""

    @functools.wraps(call)
    def checked(self: AnyTerm, batch: MaskedBatch, logits: dict[str, Tensor]) -> Tensor:
        sizes = tuple(map(str, batch.unmasked_logits.shape))
        named = {f"logits[{name!r}]": values for name, values in logits.items()}
        check_tensors(dict.fromkeys(named, Expected("float", sizes)), named)
        try:
            return call(self, batch, logits)
        except KeyError as error:
            raise InputError(f"logits lacks {error}; give those of each mask that `masks` returns") from error

    return checked


class Term(Protocol):
    """One term of the objective: a dataclass of settings, each an `ltx.config.options.option`.

    `Objective` replaces schedules of its settings by their values before it calls a term.

    Attributes:
        weight: a number, or a schedule (see `ltx.config.schedules`).
        only_in_training: whether the term needs data that only training has, so that finetuning leaves it out.
        turn: terms with the same name here take turns with the others, see `Objective.turns`; None = the term needs no
            masked images and is always computed.
    """

    weight: Any
    only_in_training: ClassVar[bool]
    turn: ClassVar[str | None]

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
