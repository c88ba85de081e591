"""Identity of a classifier: a hash of its function, and samples of its weights that survive rounding."""

from __future__ import annotations

import hashlib
import itertools
import math

import torch
from torch import Tensor, nn

SAMPLES = 8
"""Entries of each weight tensor that `weight_samples` keeps."""

MAX_TENSORS = 256


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


def weight_samples(model: nn.Module) -> list[list[float]]:
    """Evenly spaced entries of the weight matrices and kernels, to four digits.

    Two models with the same structure are compared by these: rounding or half precision changes them little, another
    training completely. Biases and norms are left out, since untrained ones are equal.
    """
    weights = (value for value in model.state_dict().values() if value.is_floating_point() and value.ndim > 1)
    samples = []
    for weight in itertools.islice(weights, MAX_TENSORS):
        flat = weight.detach().flatten()
        places = torch.linspace(0, len(flat) - 1, min(SAMPLES, len(flat))).round().long()
        samples.append([float(f"{value:.4g}") for value in flat[places.to(flat.device)].float().tolist()])
    return samples


def weight_difference(stored: list[list[float]], samples: list[list[float]]) -> float:
    """Relative difference of two lists of `weight_samples`, averaged over tensors; infinite for another structure."""
    if [len(row) for row in stored] != [len(row) for row in samples]:
        return math.inf
    differences = []
    for theirs, ours in zip(stored, samples, strict=True):
        norm = math.hypot(*theirs)
        if norm > 0:
            differences.append(math.dist(theirs, ours) / norm)
    return sum(differences) / len(differences) if differences else 0.0
