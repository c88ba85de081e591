"""Selection of the compute device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ltx.runtime.errors import InputError


def pick_device(name: str) -> torch.device:
    """The device with this name; `auto` selects a GPU if one is available.

    Under torchrun, `auto` and `cuda` select the process's own GPU.

    Raises:
        InputError: the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count():  # a process must not touch the device of another rank
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} is not available ({str(error).splitlines()[0]}); use device=cpu") from error
    return torch.device(name)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done the work that is queued on it, for instance before the time is taken."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def send(tensor: Tensor, like: Tensor) -> Tensor:
    """Copy a small CPU tensor to the device and dtype of `like` without waiting for work that a GPU has queued.

    CUDA copies pageable memory into a buffer of its own before the call returns, so `tensor` may be freed at once.
    """
    return tensor.to(like.device, like.dtype, non_blocking=like.device.type == "cuda")


def tensor_on(device: torch.device, values: Sequence[Any] | Tensor | float, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of a few numbers on a device, see `send`; `torch.tensor(values, device=device)` waits for a GPU."""
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=device.type == "cuda")
