"""What each token writes into the class token, whatever computes the attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

from ltx.classifier.class_token import TokenWriting, Writing, written_into_token


class Scaled(nn.Module):
    """Attention, a scale per channel (LayerScale) and a residual sum, as in a block."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 16))

    def forward(self, tokens: Tensor) -> Tensor:
        updated: Tensor = tokens + self.attention(tokens) * self.scale
        return updated


class MultiHead(nn.Module):
    """`nn.MultiheadAttention` as self-attention."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention, self.need_weights = nn.MultiheadAttention(16, 2, batch_first=True), need_weights
        nn.init.normal_(self.attention.out_proj.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.attention(tokens, tokens, tokens, need_weights=self.need_weights)[0]
        return output


class Transformers(nn.Module):
    """The attention of transformers' ViT."""

    def __init__(self, implementation: str) -> None:
        super().__init__()
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16
        )
        config._attn_implementation = implementation
        self.attention = transformers.ViTForImageClassification(config).vit.layers[0].attention

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.attention(tokens)[0]
        return output


def timm_attention(fused: bool) -> nn.Module:
    attention = Attention(16, num_heads=2, qkv_bias=True)
    attention.fused_attn = fused
    return attention


@pytest.mark.parametrize(
    "build",
    [
        lambda: timm_attention(True),
        lambda: timm_attention(False),
        lambda: MultiHead(False),
        lambda: MultiHead(True),
        lambda: Transformers("sdpa"),
        lambda: Transformers("eager"),
    ],
    ids=["timm fused", "timm", "multi-head fused", "multi-head", "transformers fused", "transformers"],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_contributions_add_up_to_the_update_of_the_class_token(build: Callable[[], nn.Module], scaled: bool) -> None:
    torch.manual_seed(0)
    attention = build().eval()
    block = Scaled(attention).eval()
    tokens = torch.randn(3, 7, 16)
    zeros = torch.zeros(3, 7, 16)
    with torch.no_grad(), TokenWriting(1) as writing:
        update = block(tokens) - tokens if scaled else attention(tokens)
    written = writing.written()
    assert written is not None
    assert written.attended.shape == tokens.shape
    with torch.no_grad():
        other = build().eval()
        other.load_state_dict(attention.state_dict())
        for name, parameter in other.named_parameters():
            if not name.endswith("proj.bias"):
                parameter.zero_()
        bias = other(zeros)[:, 0] * (block.scale if scaled else 1)  # the projection's bias alone
    torch.testing.assert_close(written.attended.sum(1) + bias, update[:, 0], rtol=1e-4, atol=1e-5)


def test_generic_and_timm_contributions_agree() -> None:
    torch.manual_seed(0)
    block = Block(16, num_heads=2, init_values=0.3, qkv_bias=True).eval()
    tokens = torch.randn(2, 6, 16)
    outputs: list[Tensor] = []
    handle = block.attn.qkv.register_forward_hook(lambda _, __, output: outputs.append(output))  # type: ignore[union-attr]
    with torch.no_grad(), TokenWriting(2) as writing:
        block(tokens)
    handle.remove()
    written = writing.written()
    assert written is not None
    torch.testing.assert_close(written, written_into_token(block, outputs[0], 2))


@pytest.mark.parametrize("generic", [False, True])
def test_values_are_what_full_attention_to_a_token_writes(generic: bool) -> None:
    """If the class token attends to one token alone, it receives that token's value, and nothing from the others."""
    torch.manual_seed(0)
    block: Any = Block(16, num_heads=2, init_values=0.3, qkv_bias=True).eval()
    qkv: list[Tensor] = []
    block.attn.qkv.register_forward_hook(lambda *call: qkv.append(call[2]))

    def written(tokens: Tensor) -> Writing:
        with torch.no_grad(), TokenWriting(1) as writing:
            block(tokens)
        found = writing.written() if generic else written_into_token(block, qkv[-1])
        assert found is not None
        return found

    tokens = torch.randn(1, 6, 16)
    values = written(tokens).values
    for attended in range(6):
        alone = tokens[:, attended : attended + 1].expand(-1, 6, -1)  # all six are this token
        torch.testing.assert_close(written(alone).attended.sum(1), values[:, attended], rtol=1e-4, atol=1e-5)


def test_no_attention_writes_nothing() -> None:
    with TokenWriting(1) as writing:
        nn.Linear(4, 4)(torch.rand(2, 4)).softmax(1)
    assert writing.written() is None
