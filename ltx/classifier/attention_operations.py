"""The operations that self-attention consists of, by which it is recognised whatever module computes it.

Attention is a softmax over keys that multiplies values, either as separate operations or as
`F.scaled_dot_product_attention`. `nn.MultiheadAttention` calls the same operations inside
`F.multi_head_attention_forward`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ltx.runtime.private_api import multi_head_attention_steps

SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax, torch.special.softmax)
PRODUCTS = (
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.bmm,
    torch.Tensor.bmm,
    torch.einsum,
)


class AttentionMode(TorchFunctionMode):
    """Context in which `operation` is called instead of each torch function, also inside multi-head attention.

    Attributes:
        heads: number of heads of the latest `F.multi_head_attention_forward`, whose matrices are `[B · heads, N, N]`;
            None before the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads: int | None = None

    @abstractmethod
    def operation(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute `func(*args, **kwargs)`, or what takes its place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.multi_head_attention_forward:
            self.heads = args[4]
            with self:
                return multi_head_attention_steps(*args, **(kwargs or {}))
        return self.operation(func, args, kwargs or {})


def attention_matrix(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    rows: int | None = None,
) -> Tensor:
    """The matrix that `F.scaled_dot_product_attention` never forms, `[..., N, M]`, at least in float32.

    Args:
        query: `[..., N, d]`.
        key: `[..., M, d]`.
        attn_mask: added to the scores, or False where a key is hidden; broadcastable to `[..., N, M]`.
        is_causal: whether later keys are hidden.
        scale: of the scores; None = `d ** -0.5`.
        rows: number of queries to compute, the first ones; None = all.
    """
    first = query[..., :rows, :]
    scores = first * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.mT
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if attn_mask is not None:
        mask = attn_mask[..., :rows, :] if attn_mask.shape[-2] > 1 else attn_mask
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def over_last_dimension(output: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call of a softmax function with these arguments normalises the last dimension of its output."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return isinstance(output, Tensor) and dim in (-1, output.ndim - 1)
