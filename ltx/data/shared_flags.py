"""Flags that all loading processes share."""

from __future__ import annotations

import torch
from torch import Tensor


def shared_flags(count: int) -> Tensor:
    """`count` zeros, uint8, in memory that forked and spawned workers share with this process."""
    flags = torch.zeros(count, dtype=torch.uint8)
    flags.share_memory_()
    return flags
