"""One forward pass of a timm model that returns its feature maps beside the logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ltx.errors import InputError


class Features(NamedTuple):
    """Feature maps of one forward pass, all `[B, C, h, w]`.

    Attributes:
        stages: the maps after the chosen blocks or stages, shallow to deep.
        final: the map that the classification head pools or reads, normalised as the head sees it.
    """

    stages: list[Tensor]
    final: Tensor


def supports_features(model: nn.Module) -> bool:
    """Whether `model` has timm's `forward_intermediates` / `forward_head` pair."""
    return hasattr(model, "forward_intermediates") and hasattr(model, "forward_head")


def logits_and_features(model: nn.Module, inputs: Tensor, stages: list[int] | None) -> tuple[Tensor, Features]:
    """Run `model` once and keep the feature maps on the way.

    Args:
        model: a timm model for which `supports_features` holds.
        inputs: normalised images `[B, 3, H, W]`.
        stages: indices as timm counts them (blocks of a ViT, stages of a CNN); None = all.

    Returns:
        Logits `[B, K]`, equal to `model(inputs)` in eval mode, and the `Features`.
    """
    final, maps = model.forward_intermediates(inputs, indices=stages, output_fmt="NCHW")  # type: ignore[operator]
    return model.forward_head(final), Features(list(maps), _as_map(final, maps[-1]))  # type: ignore[operator]


def features(model: nn.Module, inputs: Tensor, stages: list[int] | None) -> Features:
    """The feature maps alone, see `logits_and_features`; `model` needs no head."""
    final, maps = model.forward_intermediates(inputs, indices=stages, output_fmt="NCHW")  # type: ignore[operator]
    return Features(list(maps), _as_map(final, maps[-1]))


def _as_map(final: Tensor, like: Tensor) -> Tensor:
    """`final` as `[B, C, h, w]`, whether the model keeps tokens, NHWC or NCHW."""
    height, width = like.shape[-2:]
    if final.ndim == 3:
        tokens = final[:, -height * width :]  # prefix tokens (class, distillation, registers) come first
        return tokens.transpose(1, 2).unflatten(2, (height, width))
    if final.shape[-2:] == like.shape[-2:]:
        return final
    if final.shape[1:3] == like.shape[-2:]:
        return final.permute(0, 3, 1, 2)
    return final


def feature_shapes(model: nn.Module, input_size: tuple[int, int], stages: list[int] | None = None) -> list[torch.Size]:
    """Shapes `[C, h, w]` of each stage and, last, of the final map, found by one forward pass of zeros.

    Raises:
        InputError: the model does not say its feature maps.
    """
    if not supports_features(model):
        raise InputError(
            f"{type(model).__name__} has no forward_intermediates, so its feature maps are unknown; "
            "choose another trunk with explainer.trunk=<timm model name>"
        )
    weight = next(model.parameters())
    try:
        with torch.no_grad():
            zeros = torch.zeros(1, 3, *input_size, device=weight.device, dtype=weight.dtype)
            found = features(model, zeros, stages)
    except (AttributeError, TypeError) as error:  # a few timm models (CoaT, CrossViT) keep lists of token sets
        raise InputError(
            f"{type(model).__name__} keeps no single feature map ({error}); "
            "choose another trunk with explainer.trunk=<timm model name>"
        ) from error
    return [tensor.shape[1:] for tensor in (*found.stages, found.final)]
