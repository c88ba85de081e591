"""Attention matrices of timm's vision transformers, with their gradients, and what the head reads of the tokens."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError

_seen: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Fused attention off on every live module of `model`, and back to what it was on leaving.

    timm reads its global switch when a model is built, so the switch has to be turned on each module; fused kernels
    never form the attention matrix.
    """
    changed = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    try:
        for module in changed:
            module.fused_attn = False  # type: ignore[assignment]
        yield
    finally:
        for module in changed:
            module.fused_attn = True  # type: ignore[assignment]


def attention_layers(classifier: Classifier) -> list[nn.Module]:
    """The module of each block, first to last, whose output is that block's attention `[B, heads, N, N]`.

    It is the (inactive) dropout that timm's attention applies to the softmaxed matrix.

    Raises:
        InputError: the model has no such attention over all tokens; the text says why and names methods that work.
    """
    reason = attention_refusal(classifier)
    if reason:
        raise InputError(reason)
    return _dropouts(classifier.model)


def has_attention(classifier: Classifier) -> bool:
    """Whether attention methods work on this model: one global self-attention a block, over prefix and patch tokens."""
    return not attention_refusal(classifier)


@contextmanager
def captured(layers: list[nn.Module], start: int = 0) -> Iterator[dict[int, Tensor]]:
    """Collects the attention of `layers[start:]` in the forward passes run within it, with gradients.

    Yields:
        A dictionary that each forward pass fills: block → attention `[B, heads, N, N]` on the autograd graph.
    """
    attention: dict[int, Tensor] = {}
    handles = []

    def keep(block: int) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
            # The weights are frozen, so before the first matrix nothing requires gradients: the graph begins there,
            # and the backward pass ends there.
            if torch.is_grad_enabled() and not output.requires_grad:
                output = output.detach().requires_grad_()
            attention[block] = output
            return output

        handles.append(layers[block].register_forward_hook(hook))

    try:
        for block in range(start, len(layers)):
            keep(block)
        yield attention
    finally:
        for handle in handles:
            handle.remove()


def readout(classifier: Classifier, tokens: int) -> Tensor:
    """Weights `[N]`, summing to 1, of the tokens that the head reads: where a rollout begins.

    The class token; class and distillation token alike for a distilled DeiT; every patch token where the head
    pools them (by average, maximum or attention), and the class token too where the pooling includes it.
    """
    model = classifier.model
    prefix = classifier.num_prefix_tokens
    weights = torch.zeros(tokens, device=classifier.device)
    if prefix and getattr(model, "global_pool", "token") == "token" and getattr(model, "attn_pool", None) is None:
        weights[: 2 if getattr(model, "head_dist", None) is not None else 1] = 1
    else:
        weights[0 if getattr(model, "pool_include_prefix", False) else prefix :] = 1
    return weights / weights.sum()


def _dropouts(model: nn.Module) -> list[nn.Module]:
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, (nn.Sequential, nn.ModuleList)):
        return []
    found = []
    for block in blocks:
        drops = [
            module.attn_drop for module in block.modules() if isinstance(getattr(module, "attn_drop", None), nn.Dropout)
        ]
        if len(drops) != 1:
            return []
        found.append(drops[0])
    return found  # type: ignore[return-value]


def attention_refusal(classifier: Classifier) -> str:
    """Why the model's attention cannot be used, found by one forward pass of zeros; an empty string where it can."""
    model = classifier.model
    if model not in _seen:
        _seen[model] = _probe(classifier)
    return _seen[model]


def _probe(classifier: Classifier) -> str:
    model, name = classifier.model, classifier.name
    layers = _dropouts(model)
    if not layers:
        return f"{name} has no chain of blocks with one self-attention each"
    zeros = torch.zeros(1, 3, *classifier.input_size, device=classifier.device)
    # A folded copy runs other modules than those that are hooked.
    with torch.no_grad(), classifier.unfolded(), unfused(model), captured(layers) as attention:
        classifier(zeros)
    missing = [block for block in range(len(layers)) if block not in attention]
    if missing:
        return f"the attention of block {missing[0]} of {name} ({type(model).__name__}) was not seen"
    try:
        height, width = classifier.grid
    except (InputError, ValueError):
        return f"{name} has no grid of tokens"
    wanted = height * width + classifier.num_prefix_tokens
    for block, matrix in sorted(attention.items()):
        if matrix.ndim != 4 or matrix.shape[0] != 1 or tuple(matrix.shape[-2:]) != (wanted, wanted):
            shape = tuple(matrix.shape)
            return f"block {block} of {name} attends in windows or channels {shape}, not over its {wanted} tokens"
    return ""
