"""Attention matrices are read and replaced, whatever computes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.attribution.interception import AttentionInterception, LeadingQueries

TOKENS, HEADS = 5, 2


class Explicit(nn.Module):
    """Softmax, dropout and product as separate operations."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.drop = nn.Linear(8, 24), nn.Dropout(0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, HEADS, 4)).permute(2, 0, 3, 1, 4)
        attention = (query @ key.transpose(-2, -1) / 2).softmax(dim=-1)
        return (self.drop(attention) @ value).transpose(1, 2).flatten(2)


class Fused(Explicit):
    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, HEADS, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class MultiHead(nn.Module):
    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, HEADS, batch_first=True)
        self.need_weights = need_weights

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attention(tokens, tokens, tokens, need_weights=self.need_weights)[0]


MODULES: dict[str, Callable[[], nn.Module]] = {
    "explicit": Explicit,
    "fused": Fused,
    "multi-head": lambda: MultiHead(False),
    "multi-head with weights": lambda: MultiHead(True),
}


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return MODULES[request.param]().eval()


@pytest.fixture
def tokens() -> Tensor:
    return torch.rand(3, TOKENS, 8, generator=torch.Generator().manual_seed(1))


def test_matrices_are_read_and_the_output_is_unchanged(module: nn.Module, tokens: Tensor) -> None:
    matrices: list[Tensor] = []

    def read(block: int, compute: Callable[[], Tensor]) -> Tensor:
        matrices.append(compute())
        return matrices[-1]

    with torch.no_grad():
        expected = module(tokens)
        with AttentionInterception(TOKENS, [HEADS], read):
            output = module(tokens)
    torch.testing.assert_close(output, expected)
    (matrix,) = matrices
    assert matrix.shape == (3, HEADS, TOKENS, TOKENS)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(3, HEADS, TOKENS))
    if isinstance(module, MultiHead):
        with torch.no_grad():
            _, weights = module.attention(tokens, tokens, tokens, average_attn_weights=False)
        torch.testing.assert_close(matrix, weights)


def test_a_replaced_matrix_mixes_the_values(module: nn.Module, tokens: Tensor) -> None:
    """If every token attends to token 0 only, all outputs are equal; without attention to anything they are zero."""
    first = torch.zeros(3, HEADS, TOKENS, TOKENS)
    first[..., 0] = 1
    with torch.no_grad(), AttentionInterception(TOKENS, [HEADS], lambda block, compute: first):
        output = module(tokens)
    torch.testing.assert_close(output, output[:, :1].expand_as(output))
    assert output.std() > 0


def test_a_matrix_with_fewer_rows_leaves_the_other_tokens_out(module: nn.Module, tokens: Tensor) -> None:
    with torch.no_grad():
        expected = module(tokens)
        with AttentionInterception(TOKENS, [HEADS], lambda block, compute: compute()[..., :2, :]):
            output = module(tokens)
        with AttentionInterception(TOKENS, [HEADS], lambda block, compute: torch.zeros_like(compute())):
            without = module(tokens)
    torch.testing.assert_close(output[:, :2], expected[:, :2])
    torch.testing.assert_close(output[:, 2:], without[:, 2:])


def test_gradients_reach_the_matrix(module: nn.Module, tokens: Tensor) -> None:
    leaves: list[Tensor] = []

    def leaf(block: int, compute: Callable[[], Tensor]) -> Tensor:
        leaves.append(compute().detach().requires_grad_())
        return leaves[-1]

    with AttentionInterception(TOKENS, [HEADS], leaf):
        output = module(tokens)
    (gradient,) = torch.autograd.grad(output.square().sum(), leaves)
    assert gradient.shape == (3, HEADS, TOKENS, TOKENS)
    assert (gradient != 0).all()


def test_attention_over_other_tokens_is_left_alone(module: nn.Module, tokens: Tensor) -> None:
    def never(block: int, compute: Callable[[], Tensor]) -> Tensor:
        raise AssertionError

    with torch.no_grad(), AttentionInterception(TOKENS + 1, [HEADS], never):
        module(tokens)


@pytest.mark.parametrize(
    "options", [{"is_causal": True}, {"scale": 0.3}, {"attn_mask": "bool"}, {"attn_mask": "float"}]
)
def test_explicit_attention_equals_the_fused_kernel(options: dict[str, object]) -> None:
    query, key, value = torch.rand(3, 2, HEADS, TOKENS, 4, generator=torch.Generator().manual_seed(0))
    if options.get("attn_mask") == "bool":
        options = {"attn_mask": torch.eye(TOKENS, dtype=torch.bool).logical_not()}
    elif "attn_mask" in options:
        options = {"attn_mask": torch.rand(HEADS, TOKENS, TOKENS)}
    expected = F.scaled_dot_product_attention(query, key, value, **options)  # type: ignore[arg-type]
    with AttentionInterception(TOKENS, [HEADS], lambda block, compute: compute()):
        output = F.scaled_dot_product_attention(query, key, value, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(output, expected)


def test_grouped_queries_share_keys_and_values() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.rand(2, 4, TOKENS, 4, generator=generator), torch.rand(2, 2, TOKENS, 4, generator=generator)
    expected = F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
    with AttentionInterception(TOKENS, [4], lambda block, compute: compute()):
        output = F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
    torch.testing.assert_close(output, expected)


def test_leading_queries_have_the_same_output_and_gradient(module: nn.Module) -> None:
    tokens = torch.rand(2, TOKENS, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    results = []
    for leading in (TOKENS, 2):
        with LeadingQueries(TOKENS, leading):
            output = module(tokens)
        (gradient,) = torch.autograd.grad(output[:, :2].square().sum(), tokens)
        results.append((output[:, :2], gradient))
    for full, fewer in zip(*results, strict=True):
        torch.testing.assert_close(fewer, full)


def test_leading_queries_leave_the_other_outputs_zero_and_other_numbers_of_tokens_alone() -> None:
    module = Fused().eval()
    tokens = torch.rand(2, TOKENS, 8)
    with LeadingQueries(TOKENS, 2):
        assert not module(tokens)[:, 2:].any()
        assert module(tokens[:, :4]).all()
