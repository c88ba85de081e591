"""Identity of a classifier: a hash of its architecture and weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module, head: str, mean: Tensor, std: Tensor, name: str | None) -> str:
    """A short hash of architecture, weights, head and normalisation.

    Args:
        model: the module.
        head: how its logits are read.
        mean, std: normalisation.
        name: a timm name, which determines the architecture; None = the module's structure does.
    """
    architecture = structure(model) if name is None else name
    digest = hashlib.sha256(f"{architecture}|{head}|{mean.tolist()}|{std.tolist()}".encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def structure(model: nn.Module) -> str:
    """The submodules with their classes and settings, one per line; the class of the module itself is left out."""
    return "\n".join(
        f"{name} {type(module).__name__}({module.extra_repr()})" for name, module in model.named_modules() if name
    )
