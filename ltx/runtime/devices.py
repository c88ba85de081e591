"""Devices by name."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ltx.runtime.errors import InputError


def pick_device(name: str) -> torch.device:
    """Return the device with this name; `auto` means a GPU if there is one.

    Under torchrun, `auto` and `cuda` mean the process's own GPU.

    Raises:
        InputError: the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count():  # no process may touch another one's device
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} cannot be used here ({str(error).splitlines()[0]}); use device=cpu") from error
    return torch.device(name)


def send(tensor: Tensor, like: Tensor) -> Tensor:
    """Copy a small CPU tensor to the device and dtype of `like` without waiting for work that a GPU has queued.

    CUDA copies pageable memory into a buffer of its own before the call returns, so `tensor` may be freed at once.
    """
    return tensor.to(like.device, like.dtype, non_blocking=like.device.type == "cuda")
