"""Adapter for timm models, and for modules with timm's `forward_intermediates` and `forward_head`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ltx.classifier.class_token import token_writing_block, written_into_token
from ltx.classifier.feature_maps import (
    as_map,
    average_rows,
    checked_logits,
    feature_shapes,
    supports_features,
    trainable_trunk,
)
from ltx.classifier.interface import Features
from ltx.runtime.errors import InputError


class TimmModel:
    """`ltx.classifier.interface.ImageModel` of a module with timm's methods.

    Stages are those of `forward_intermediates`: the blocks of a transformer, the stages of a CNN.

    Args:
        module: the model.
        channels: number of input channels.
    """

    def __init__(self, module: nn.Module, channels: int = 3) -> None:
        self.module, self.channels = module, channels

    @property
    def prefix_tokens(self) -> int:
        return int(getattr(self.module, "num_prefix_tokens", 0) or 0)

    @property
    def read_tokens(self) -> int:
        reads_token = getattr(self.module, "global_pool", "token") == "token"
        if not self.prefix_tokens or not reads_token or getattr(self.module, "attn_pool", None) is not None:
            return 0
        return 2 if getattr(self.module, "head_dist", None) is not None else 1

    @property
    def final_norm(self) -> nn.Module | None:
        norm = getattr(self.module, "norm", None)
        return norm if isinstance(norm, nn.Module) else None

    def logits(self, inputs: Tensor) -> Tensor:
        return checked_logits(self.module, self.module(inputs))

    def logits_and_features(self, inputs: Tensor, stages: list[int] | None = None) -> tuple[Tensor, Features]:
        model: Any = self.module
        if not supports_features(model):
            raise InputError(self.feature_refusal())
        block = token_writing_block(model)
        projected: list[Tensor] = []
        hook = None
        if block is not None:
            attention: Any = block.attn
            hook = attention.qkv.register_forward_hook(lambda *call: projected.append(call[2]))
        try:
            final, maps = model.forward_intermediates(inputs, indices=stages, output_fmt="NCHW")
        finally:
            if hook is not None:
                hook.remove()
        read = 2 if hasattr(model, "head_dist") else 1
        if block is None:
            return model.forward_head(final), Features(list(maps), as_map(final, maps[-1]))
        attended, values = (as_map(tokens, maps[-1]) for tokens in written_into_token(block, projected[0], read))
        return model.forward_head(final), Features(list(maps), attended, (values,))

    def feature_refusal(self) -> str:
        if supports_features(self.module):
            return ""
        return (
            f"{type(self.module).__name__} has no forward_intermediates, so its feature maps are unknown; "
            "choose another trunk with explainer.trunk=<timm model name>"
        )

    def trunk(self) -> nn.Module:
        if not supports_features(self.module):
            raise InputError(self.feature_refusal())
        return trainable_trunk(copy.deepcopy(self.module))

    def grid(self, input_size: tuple[int, int]) -> tuple[int, int]:
        grid = getattr(getattr(self.module, "patch_embed", None), "grid_size", None)
        if grid is not None and getattr(self.module, "num_prefix_tokens", None) is not None:
            return int(grid[0]), int(grid[1])
        shape = self.feature_shapes(input_size)[-1]
        return int(shape[-2]), int(shape[-1])

    def feature_shapes(self, input_size: tuple[int, int], stages: list[int] | None = None) -> list[torch.Size]:
        return feature_shapes(self.module, input_size, stages, self.channels)

    def head_rows(self) -> Tensor | None:
        if not hasattr(self.module, "get_classifier"):
            return None
        heads: Any = self.module.get_classifier()  # type: ignore[operator]
        heads = heads if isinstance(heads, (tuple, list)) else (heads,)
        return average_rows([getattr(head, "linear", head) for head in heads])

    def rebind(self, module: nn.Module) -> TimmModel:
        return TimmModel(module, self.channels)
