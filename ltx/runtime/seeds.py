"""Seeded random draws for batches: from one generator, or from one generator for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ltx.runtime.devices import send
from ltx.runtime.errors import InputError

Source = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the whole batch; one for each row, so that a row's draws depend neither on the other rows nor on
how a global batch is split over devices; or None for torch's global generator."""

WIDTH = 2**40  # number of positions before the generators of the next seed begin
SCATTER = 0x9E3779B97F4A7C15  # odd, from the digits of the golden ratio


def seeded(seed: int) -> torch.Generator:
    """A CPU generator with this seed.

    Raises:
        InputError: torch does not accept the seed.
    """
    if not -(2**63) <= seed < 2**63:
        raise InputError(f"seed={seed}; give an integer that fits in 64 bits")
    return torch.Generator().manual_seed(seed)


def row_generators(seed: int, positions: Tensor) -> list[torch.Generator]:
    """A generator for each position `[B]`, which depends only on the seed and the position."""
    first = seed * WIDTH + (seed >> 23) * SCATTER  # the product alone would repeat itself for seeds from 2^23 on
    return [torch.Generator().manual_seed((first + int(position)) % 2**63) for position in positions.tolist()]


def draw(kind: Callable[..., Tensor], rows: int, shape: tuple[int, ...], source: Source, like: Tensor) -> Tensor:
    """Draw `kind` (`torch.rand` or `torch.randn`) of `[rows, *shape]`, with the device and dtype of `like`.

    From a list of generators, the first `rows` are used: a draw that the whole batch shares uses only the first.
    """
    if source is None or isinstance(source, torch.Generator):
        device = like.device if source is None else source.device
        return send(kind(rows, *shape, generator=source, device=device), like)
    return send(torch.stack([kind(shape, generator=each) for each in source[:rows]]), like)
