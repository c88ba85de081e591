"""Frozen batch normalisation folded into the convolution before it: the same function, fewer passes over memory."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-3
"""Largest difference of the logits that rounding may make, as a share of the largest logit."""


def folded(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """A copy of a frozen `model` in eval mode whose convolutions include the batch normalisation that follows them.

    Which convolution feeds which normalisation is seen in one forward pass, and the result is compared with the model's
    on noise: a model that does more than that with a convolution's output is returned as it is.

    Args:
        model: takes images `[B, 3, H, W]`.
        size: height and width of the images.
    """
    copied = copy.deepcopy(model)
    weight = next(copied.parameters(), torch.zeros(()))
    noise = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        expected = model(noise)
        pairs = _pairs(copied, noise)
        for conv, name, norm in pairs:
            _fold(conv, norm)
            copied.set_submodule(name, _after(norm))
        agrees = (copied(noise) - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp_min(1e-6)
    return copied if pairs and agrees else model


def _pairs(model: nn.Module, inputs: Tensor) -> list[tuple[nn.Conv2d, str, nn.BatchNorm2d]]:
    """Convolutions, each called once, whose very output a batch normalisation reads, and that one's name."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    found: list[tuple[nn.Conv2d, str, nn.BatchNorm2d]] = []

    def made_by(module: nn.Module, _: Any, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        made[id(output)] = (module, output)  # type: ignore[assignment]  # held, so that no other tensor gets its id

    def read_by(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            calls[module] = calls.get(module, 0) + 1
            if id(args[0]) in made:
                found.append((made[id(args[0])][0], name, module))  # type: ignore[arg-type]

        return hook

    handles = []
    for name, module in model.named_modules():
        if type(module) in (nn.Conv2d, Conv2dSame):
            handles.append(module.register_forward_hook(made_by))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(read_by(name)))
    model(inputs)
    for handle in handles:
        handle.remove()
    return [pair for pair in found if calls[pair[0]] == 1 and calls[pair[2]] == 1]


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(  # type: ignore[assignment]
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _after(norm: nn.BatchNorm2d) -> nn.Module:
    """What timm's normalisations do after normalising: their activation, or nothing."""
    act = getattr(norm, "act", None)
    return act if isinstance(act, nn.Module) else nn.Identity()
