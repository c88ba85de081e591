"""Frozen batch normalisation fused into the preceding convolution: the same function with fewer memory accesses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-3
"""Largest difference of the logits that counts as rounding, as a fraction of the largest logit."""


def folded(
    model: nn.Module,
    shape: Sequence[int],
    runner: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda module: module,
) -> nn.Module:
    """A copy of a frozen `model` in eval mode whose convolutions include the batch normalisation that follows them.

    One forward pass shows which convolution feeds which normalisation. The copy is compared with the model on noise;
    if the logits differ, because the model uses a convolution's output elsewhere too, the model itself is returned.

    Args:
        model: the module.
        shape: shape `[B, C, H, W]` of the noise.
        runner: from a module to the function from inputs to logits `[B, K]`.
    """
    copied = copy.deepcopy(model)
    weight = next(copied.parameters(), torch.zeros(()))
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        expected = runner(model)(noise)
        pairs = _pairs(copied, lambda: runner(copied)(noise))
        for conv, name, norm in pairs:
            _fuse(conv, norm)
            copied.set_submodule(name, _activation(norm))
        agrees = (runner(copied)(noise) - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp_min(1e-6)
    return copied if pairs and agrees else model


def _pairs(model: nn.Module, run: Callable[[], Any]) -> list[tuple[nn.Conv2d, str, nn.BatchNorm2d]]:
    """Convolutions, called once each, with the batch normalisation that reads their output and its name."""
    producers: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[nn.Conv2d, str, nn.BatchNorm2d]] = []

    def after_conv(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        calls[module] = calls.get(module, 0) + 1
        producers[id(output)] = (module, output)  # the reference keeps the id unique

    def before_norm(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            assert isinstance(module, nn.BatchNorm2d)
            calls[module] = calls.get(module, 0) + 1
            if args and id(args[0]) in producers:
                pairs.append((producers[id(args[0])][0], name, module))

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            if type(module) in (nn.Conv2d, Conv2dSame):
                handles.append(module.register_forward_hook(after_conv))
            elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                handles.append(module.register_forward_pre_hook(before_norm(name)))
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in pairs if calls[pair[0]] == 1 and calls[pair[2]] == 1]


def _fuse(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.requires_grad_(False)
    conv.to(memory_format=torch.channels_last)


def _activation(norm: nn.BatchNorm2d) -> nn.Module:
    """The activation that timm's normalisation layers include, or the identity."""
    act = getattr(norm, "act", None)
    return act if isinstance(act, nn.Module) else nn.Identity()
