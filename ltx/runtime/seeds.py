"""Random draws for the rows of a batch: from one generator for all, or from one for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ltx.runtime.devices import send
from ltx.runtime.errors import InputError

Source = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the whole batch; one for each row, so that a row's draws depend neither on the other rows nor on
how a global batch is divided over devices; or None for torch's own."""

WIDTH = 2**40  # positions of one seed before those of the next begin
SCATTER = 0x9E3779B97F4A7C15  # odd and without a pattern (the golden ratio's digits)


def seeded(seed: int) -> torch.Generator:
    """A generator of that seed.

    Raises:
        InputError: a seed that torch does not take.
    """
    if not -(2**63) <= seed < 2**63:
        raise InputError(f"seed={seed}; give a whole number of at most 63 bits")
    return torch.Generator().manual_seed(seed)


def row_generators(seed: int, positions: Tensor) -> list[torch.Generator]:
    """A generator for each position `[B]`; it depends on the seed and the position alone."""
    first = seed * WIDTH + (seed >> 23) * SCATTER  # of seeds from 2^23 on, the product alone would come round
    return [torch.Generator().manual_seed((first + int(position)) % 2**63) for position in positions.tolist()]


def draw(kind: Callable[..., Tensor], rows: int, shape: tuple[int, ...], source: Source, like: Tensor) -> Tensor:
    """`kind` (`torch.rand` or `torch.randn`) of `[rows, *shape]`, on the device and in the type of `like`.

    A list of generators gives `rows` rows whatever their number, the first `rows` of them; a draw that is shared by
    the whole batch takes one row.
    """
    if source is None or isinstance(source, torch.Generator):
        device = like.device if source is None else source.device
        return send(kind(rows, *shape, generator=source, device=device), like)
    return send(torch.stack([kind(shape, generator=each) for each in source[:rows]]), like)
