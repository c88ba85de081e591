"""One forward pass of a timm model that returns its feature maps beside the logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from ltx.runtime.errors import InputError


class Features(NamedTuple):
    """Feature maps of one forward pass, all `[B, C, h, w]`.

    Attributes:
        stages: the maps after the chosen blocks or stages, shallow to deep.
        final: the map that the classification head pools, normalised as the head sees it. Beside logits, where the head
            reads a class token: what each patch writes into that token in the last block, see `written_into_token`.
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
    block, seen = _block_that_writes_the_token(model), []
    hook = None if block is None else block.attn.qkv.register_forward_hook(lambda *call: seen.append(call[2]))  # type: ignore[union-attr]
    try:
        final, maps = model.forward_intermediates(inputs, indices=stages, output_fmt="NCHW")  # type: ignore[operator]
    finally:
        if hook is not None:
            hook.remove()
    tokens = final if block is None else written_into_token(block, seen[0], 2 if hasattr(model, "head_dist") else 1)
    return model.forward_head(final), Features(list(maps), _as_map(tokens, maps[-1]))  # type: ignore[operator]


def features(model: nn.Module, inputs: Tensor, stages: list[int] | None) -> Features:
    """The feature maps alone, of a `model` that needs no head and may be trained; `final` is the normalised map."""
    final, maps = model.forward_intermediates(inputs, indices=stages, output_fmt="NCHW")  # type: ignore[operator]
    return Features(list(maps), _as_map(final, maps[-1]))


def _block_that_writes_the_token(model: nn.Module) -> nn.Module | None:
    """The last block of a vision transformer whose head reads its class token; None of any other model."""
    if not isinstance(model, VisionTransformer) or model.global_pool != "token" or model.attn_pool is not None:
        return None
    block = model.blocks[-1]
    attention = getattr(block, "attn", None)
    if not isinstance(block, Block) or not isinstance(attention, Attention) or getattr(attention, "gate", None):
        return None
    return block if isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity) else None


def written_into_token(block: nn.Module, qkv: Tensor, read: int = 1) -> Tensor:
    """What each token adds to the class token through a block's attention.

    Attention is a sum over tokens: with the projection's bias, the parts of all tokens add up to what the class token
    receives. Their products with a class's head row are evidence of that class, as CAM's (Zhou et al. 2016) are for
    pooled maps. The last MLP and the final norm, through which they pass to the logit, are left out: with their
    derivatives the products order pixels worse (`docs/ablations.md`).

    Args:
        block: a timm block.
        qkv: what `block.attn.qkv` gave, `[B, N, 3 · heads · width]`.
        read: class tokens, the first ones; of a distilled model's two the mean.

    Returns:
        `[B, N, D]`, in float32.
    """
    attention: Any = block.attn
    with torch.autocast(qkv.device.type, enabled=False):
        query, key, value = qkv.float().unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = attention.q_norm(query[:, :, :read]), attention.k_norm(key)
        weights = (attention.scale * query @ key.mT).softmax(-1).mean(2)  # [B, heads, N]
        parts = (weights.unsqueeze(-1) * value).transpose(1, 2).flatten(2)
        return block.ls1(F.linear(parts, attention.proj.weight.float()))  # type: ignore[operator]


def _as_map(final: Tensor, like: Tensor) -> Tensor:
    """`final` as `[B, C, h, w]`, whether the model keeps tokens, NHWC or NCHW."""
    height, width = like.shape[-2:]
    if final.ndim == 3:
        tokens = final[:, -height * width :]  # prefix tokens (class, distillation, registers) come first
        if tokens.shape[1] != height * width:
            raise ValueError(f"{tokens.shape[1]} final tokens for a map of {height}x{width}")
        return tokens.transpose(1, 2).unflatten(2, (height, width))
    if final.shape[-2:] == like.shape[-2:]:
        return final
    if final.shape[1:3] == like.shape[-2:]:
        return final.permute(0, 3, 1, 2)
    return final


def settled(model: nn.Module) -> nn.Module:
    """The model, all of it in eval mode, where it stays: no pass may change the statistics of its normalisation.

    A caller may hold it too and have switched a part of it to training.
    """
    # A model that is in eval mode already is left alone: some (LeViT) forget there what they keep between passes.
    return model.eval() if any(module.training for module in model.modules()) else model


def feature_shapes(model: nn.Module, input_size: tuple[int, int], stages: list[int] | None = None) -> list[torch.Size]:
    """Shapes `[C, h, w]` of each stage and, last, of the final map, found by one forward pass of zeros in eval mode.

    Raises:
        InputError: the model does not say its feature maps.
    """
    if not supports_features(model):
        raise InputError(
            f"{type(model).__name__} has no forward_intermediates, so its feature maps are unknown; "
            "choose another trunk with explainer.trunk=<timm model name>"
        )
    weight = next(model.parameters())
    settled(model)
    try:
        with torch.no_grad():
            zeros = torch.zeros(1, 3, *input_size, device=weight.device, dtype=weight.dtype)
            found = features(model, zeros, stages)
    except (AttributeError, TypeError, ValueError) as error:  # a few timm models (CoaT, CrossViT) keep token sets
        raise InputError(
            f"{type(model).__name__} keeps no single feature map ({error}); "
            "choose another trunk with explainer.trunk=<timm model name>"
        ) from error
    return [tensor.shape[1:] for tensor in (*found.stages, found.final)]


def unread_parameters(model: nn.Module, input_size: tuple[int, int], stages: list[int] | None) -> list[nn.Parameter]:
    """The trainable parameters that neither these stages nor the final map depend on.

    Layers between the final map and the classifier stay where a model's classifier is taken off: a `conv_head`, the
    head's norm, a pooling by attention.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        return []
    settled(model)
    with torch.enable_grad():
        found = features(model, trainable[0].new_zeros(1, 3, *input_size), stages)
        total = torch.stack([tensor.sum() for tensor in (*found.stages, found.final)]).sum()
    gradients = torch.autograd.grad(total, trainable, allow_unused=True)
    return [parameter for parameter, gradient in zip(trainable, gradients, strict=True) if gradient is None]
