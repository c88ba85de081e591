"""Feature maps of modules with timm's `forward_intermediates`, and what all adapters share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ltx.classifier.interface import Features as Features
from ltx.runtime.errors import InputError


def supports_features(model: nn.Module) -> bool:
    """Whether `model` has timm's methods `forward_intermediates` and `forward_head`."""
    return hasattr(model, "forward_intermediates") and hasattr(model, "forward_head")


def features(model: nn.Module, inputs: Tensor, stages: list[int] | None) -> Features:
    """The feature maps of a trunk, which needs no head and may be trained; `final` is the normalised map.

    Args:
        model: a module with `forward_intermediates`.
        inputs: normalised images `[B, C, H, W]`.
        stages: indices as timm counts them (blocks of a ViT, stages of a CNN); None = all.
    """
    final, maps = model.forward_intermediates(inputs, indices=stages, output_fmt="NCHW")  # type: ignore[operator]
    return Features(list(maps), as_map(final, maps[-1]))


def as_map(final: Tensor, like: Tensor) -> Tensor:
    """`final` as `[B, C, h, w]`, from tokens, NHWC or NCHW; `like` is a map `[B, C', h, w]` of the same grid."""
    height, width = like.shape[-2:]
    if final.ndim == 3:
        tokens = final[:, -height * width :]  # prefix tokens (class, distillation, registers) come first
        if tokens.shape[1] != height * width:
            raise ValueError(f"{tokens.shape[1]} final tokens for a map of {height}x{width}")
        patches: Tensor = tokens.transpose(1, 2).unflatten(2, (height, width))
        return patches
    if final.shape[-2:] == like.shape[-2:]:
        return final
    if final.shape[1:3] == like.shape[-2:]:
        return final.permute(0, 3, 1, 2)
    return final


def in_eval_mode(model: nn.Module) -> nn.Module:
    """The model with all its submodules in eval mode: no forward pass may update normalisation statistics.

    A caller may have switched a submodule to training mode.
    """
    # Calling `eval()` without need would make some models (LeViT) drop what they cache between passes.
    return model.eval() if any(module.training for module in model.modules()) else model


def feature_shapes(
    model: nn.Module, input_size: tuple[int, int], stages: list[int] | None = None, channels: int = 3
) -> list[torch.Size]:
    """Shapes `[C, h, w]` of each stage and, last, of the final map, from one forward pass of zeros in eval mode.

    Args:
        model: a module with `forward_intermediates`.
        input_size: height and width of the images.
        stages: see `features`.
        channels: number of input channels.

    Raises:
        InputError: the model has no single feature map per stage.
    """
    if not hasattr(model, "forward_intermediates"):
        raise InputError(
            f"{type(model).__name__} has no forward_intermediates, so its feature maps are unknown; "
            "choose another trunk with explainer.trunk=<timm model name>"
        )
    weight = next(model.parameters())
    in_eval_mode(model)
    try:
        with torch.no_grad():
            zeros = torch.zeros(1, channels, *input_size, device=weight.device, dtype=weight.dtype)
            maps = features(model, zeros, stages)
    except (AttributeError, TypeError, ValueError) as error:  # a few timm models (CoaT, CrossViT) keep token sets
        raise InputError(
            f"{type(model).__name__} has no single feature map per stage (several sets of tokens, or a final token "
            "apart from the map); "
            "choose another trunk with explainer.trunk=<timm model name>"
        ) from error
    return [tensor.shape[1:] for tensor in (*maps.stages, maps.final)]


def unread_parameters(
    model: nn.Module, input_size: tuple[int, int], stages: list[int] | None, channels: int = 3
) -> list[nn.Parameter]:
    """The trainable parameters that affect neither these stages nor the final map.

    Layers between the final map and the classification head remain in a trunk without a head: a `conv_head`, the
    head's norm, attention pooling.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        return []
    in_eval_mode(model)
    with torch.enable_grad():
        maps = features(model, trainable[0].new_zeros(1, channels, *input_size), stages)
        total = torch.stack([tensor.sum() for tensor in (*maps.stages, maps.final)]).sum()
    gradients = torch.autograd.grad(total, trainable, allow_unused=True)
    return [parameter for parameter, gradient in zip(trainable, gradients, strict=True) if gradient is None]


EMBEDDINGS = ("patch_embed", "pos_embed", "cls_token", "dist_token", "reg_token")


def trainable_trunk(trunk: nn.Module) -> nn.Module:
    """A timm model without its head, trainable except for the embedding layers, as in the released LTX code."""
    if hasattr(trunk, "reset_classifier"):
        trunk.reset_classifier(0)  # type: ignore[operator]  # timm's method
    trunk.requires_grad_(True)
    for name, parameter in trunk.named_parameters():
        if name.split(".")[0] in EMBEDDINGS:
            parameter.requires_grad_(False)
    return trunk


def checked_logits(module: nn.Module, output: Any) -> Tensor:
    """The output of a classifier, if it is a tensor `[B, K]`.

    Raises:
        InputError: it is not.
    """
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    returned = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise InputError(f"{type(module).__name__} returns {returned}; a classifier returns logits [B, K]")


def average_rows(heads: Iterable[nn.Module]) -> Tensor | None:
    """Weights `[K, D]`, float32, of linear or 1x1 convolutional heads, averaged; None if a head has no weight."""
    weights: list[Any] = [getattr(head, "weight", None) for head in heads]
    if not weights or any(not isinstance(weight, Tensor) for weight in weights):
        return None
    rows = [weight.detach().flatten(1).float() for weight in weights]
    return torch.stack(rows).mean(0)
