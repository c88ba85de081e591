"""Evidence in the class token: what each patch writes into it in the last transformer block."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from ltx.classifier.attention_operations import PRODUCTS, SOFTMAX, AttentionMode, attention_matrix

SCALINGS = (torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__)
SUMS = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__)


def token_writing_block(model: nn.Module) -> nn.Module | None:
    """The last block of a timm vision transformer whose head reads the class token; None for any other model."""
    if not isinstance(model, VisionTransformer) or model.global_pool != "token" or model.attn_pool is not None:
        return None
    block = model.blocks[-1]
    attention = getattr(block, "attn", None)
    if not isinstance(block, Block) or not isinstance(attention, Attention) or getattr(attention, "gate", None):
        return None
    return block if isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity) else None


class Writing(NamedTuple):
    """What each token writes into the class token in a block, `[B, N, D]` in float32.

    Attributes:
        attended: with the class token's attention as it is.
        values: if the class token attended to each token fully, that is the token's value alone.
    """

    attended: Tensor
    values: Tensor


def written_into_token(block: nn.Module, qkv: Tensor, read: int = 1) -> Writing:
    """What each token adds to the class token through a block's attention.

    Attention is a sum over tokens: with the projection's bias, the contributions of all tokens add up to the update of
    the class token. Their products with a class's head row are evidence of that class, like those of CAM (Zhou et al.
    2016) for pooled maps. The last MLP and the final norm, between the token and the logit, are ignored: with their
    derivatives the products rank pixels worse (see `docs/ablations.md`).

    Args:
        block: a timm block.
        qkv: output of `block.attn.qkv`, `[B, N, 3 · heads · width]`.
        read: number of class tokens, the first ones; the two of a distilled model are averaged.
    """
    attention: Any = block.attn
    with torch.autocast(qkv.device.type, enabled=False):
        query, key, value = qkv.float().unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = attention.q_norm(query[:, :, :read]), attention.k_norm(key)
        weights = (attention.scale * query @ key.mT).softmax(-1).mean(2)  # [B, heads, N]
        scale: Any = block.ls1
        projection = attention.proj.weight.float()
        heads = (weights.unsqueeze(-1) * value, value)
        return Writing(*(scale(F.linear(parts.transpose(1, 2).flatten(2), projection)) for parts in heads))


class TokenWriting(AttentionMode):
    """Context of a block's forward pass that computes `written_into_token` for any implementation of attention.

    Attention is recognised by what it computes: `F.scaled_dot_product_attention`, `F.multi_head_attention_forward`, or
    a softmax of `[B, heads, N, N]` whose product with the values follows. Its output is traced through reshapes to the
    first linear layer, the output projection, and on to a scale per channel (LayerScale) before the residual sum.

    Args:
        read: number of class tokens that the head reads, the first ones.
    """

    def __init__(self, read: int) -> None:
        super().__init__()
        self.read = read
        self.parts: tuple[Tensor, Tensor] | None = None
        self.weight: Tensor | None = None
        self.scale: Tensor | None = None
        self._attention: Tensor | None = None
        self._traced: Tensor | None = None
        self._finished = False

    def written(self) -> Writing | None:
        """What each token adds to the class token; None if no attention was recognised."""
        if self.parts is None or self.weight is None:
            return None
        with torch.autocast(self.weight.device.type, enabled=False):
            projected = [F.linear(parts, self.weight.float()) for parts in self.parts]
            return Writing(*(part if self.scale is None else part * self.scale.float() for part in projected))

    def operation(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        output = func(*args, **kwargs)
        if self._finished:
            return output
        if func is F.scaled_dot_product_attention:
            self._fused(*args, **kwargs)
            self._traced = output
        elif func in SOFTMAX and self.parts is None and self._is_attention(output):
            self._attention = output
        elif func in PRODUCTS and self._attention is not None and self.parts is None and args[0] is self._attention:
            self._weighted(self._with_heads(self._attention), self._with_heads(args[1]))
            self._traced = output
        elif self._traced is not None:
            self._follow(func, args, output)
        elif self._attention is not None and args and args[0] is self._attention and isinstance(output, Tensor):
            self._attention = output  # dropout, or a cast
        return output

    def _is_attention(self, output: Any) -> bool:
        """Whether a softmax is `[B, heads, N, N]`, or `[B · heads, N, N]` inside multi-head attention."""
        dimensions = 4 if self.heads is None else 3
        return isinstance(output, Tensor) and output.ndim == dimensions and output.shape[-1] == output.shape[-2]

    def _with_heads(self, tensor: Tensor) -> Tensor:
        """`[B · heads, …]` as `[B, heads, …]`."""
        if tensor.ndim == 4 or self.heads is None:
            return tensor
        heads: Tensor = tensor.unflatten(0, (-1, self.heads))
        return heads

    def _follow(self, func: Any, args: Any, output: Any) -> None:
        """Follow the attention's output to the projection, a LayerScale and the residual sum."""
        operands = [arg for arg in args if isinstance(arg, Tensor)]
        if not any(operand is self._traced for operand in operands) or not isinstance(output, Tensor):
            return
        if func is F.linear and self.weight is None:
            self.weight = args[1]
        elif func in SUMS and self.weight is not None:
            self._finished = True
        elif func in SCALINGS and self.weight is not None:
            scales = [operand for operand in operands if operand is not self._traced and operand.ndim == 1]
            self.scale = scales[0] if scales else self.scale
        self._traced = output

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **_: Any,
    ) -> None:
        with torch.autocast(query.device.type, enabled=False):
            weights = attention_matrix(query.float(), key.float(), attn_mask, is_causal, scale, self.read)
            self._weighted(weights, value)

    def _weighted(self, attention: Tensor, value: Tensor) -> None:
        """Keep values `[B, heads, N, d]`, and their products with the class token's attention `[B, heads, N, N]`."""
        with torch.autocast(value.device.type, enabled=False):
            weights = attention[:, :, : self.read].float().mean(2)
            heads = (weights.unsqueeze(-1) * value.float(), value.float())
            self.parts = (heads[0].transpose(1, 2).flatten(2), heads[1].transpose(1, 2).flatten(2))
