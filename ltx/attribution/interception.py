"""Read and replace the attention matrices of a forward pass, independent of the modules that compute them.

Fused attention never forms the matrix, so it is computed explicitly where a matrix is read or replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ltx.classifier.attention_operations import SOFTMAX, AttentionMode, attention_matrix, over_last_dimension

Handler = Callable[[int, Callable[[], Tensor]], Tensor]
"""`(block, compute) -> matrix`: `compute()` returns the attention `[B, heads, N, N]`; the result takes its place.

If the result has fewer than `N` rows, the output of the attention is zero for the other tokens.
"""


class AttentionInterception(AttentionMode):
    """Context in which a handler receives the attention matrices over all tokens, in the order of the blocks.

    Args:
        tokens: number of tokens `N`. Attention over other numbers of tokens is left alone.
        heads: number of heads of each block.
        handler: see `Handler`.
        first: block of the first matrix. Passes that resume after a cut do not compute the earlier ones.
    """

    def __init__(self, tokens: int, heads: Sequence[int], handler: Handler, first: int = 0) -> None:
        super().__init__()
        self.tokens, self.heads_of, self.handler, self.block = tokens, heads, handler, first

    def operation(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key = args[0] if args else kwargs["query"], args[1] if len(args) > 1 else kwargs["key"]
            shape = (*query.shape[:-1], key.shape[-2])
            if self._is_over_all_tokens(shape):
                return explicit_attention(partial(self._handled, shape), *args, **kwargs)
        output = func(*args, **kwargs)
        if func in SOFTMAX and over_last_dimension(output, args, kwargs) and self._is_over_all_tokens(output.shape):
            matrix = self._handled(output.shape, lambda: output)
            missing = self.tokens - matrix.shape[-2]
            return F.pad(matrix, (0, 0, 0, missing)) if missing else matrix
        return output

    def _is_over_all_tokens(self, shape: Sequence[int]) -> bool:
        return len(shape) in (3, 4) and shape[-2] == shape[-1] == self.tokens and self.block < len(self.heads_of)

    def _handled(self, shape: Sequence[int], compute: Callable[[], Tensor]) -> Tensor:
        block, self.block = self.block, self.block + 1
        if len(shape) == 4:
            return self.handler(block, compute)
        heads = self.heads_of[block]  # the matrices are [B · heads, N, N]
        return self.handler(block, lambda: compute().unflatten(0, (-1, heads))).flatten(0, 1)


class LeadingQueries(TorchFunctionMode):
    """Context in which fused attention over all tokens is computed for the leading tokens only.

    The output for the other tokens is zero. Attention with a mask is left alone.

    Args:
        tokens: number of tokens.
        leading: number of leading tokens.
    """

    def __init__(self, tokens: int, leading: int) -> None:
        super().__init__()
        self.tokens, self.leading = tokens, leading

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        masked = kwargs.get("attn_mask") is not None or kwargs.get("is_causal")
        if func is F.scaled_dot_product_attention and len(args) == 3 and not masked:
            query, key, value = args
            if query.shape[-2] == key.shape[-2] == self.tokens:
                output = func(query[..., : self.leading, :], key, value, **kwargs)
                return F.pad(output, (0, 0, 0, self.tokens - self.leading))
        return func(*args, **kwargs)


def explicit_attention(
    handle: Callable[[Callable[[], Tensor]], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention` as separate operations, with `handle(compute)` in place of the matrix."""
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))

    def matrix() -> Tensor:
        return attention_matrix(query, key, attn_mask, is_causal, scale)

    attention = F.dropout(handle(matrix), dropout_p, training=dropout_p > 0)
    missing = query.shape[-2] - attention.shape[-2]
    output = attention.to(value.dtype) @ value
    return F.pad(output, (0, 0, 0, missing)) if missing else output
