"""The chain of self-attentions is found by what a model computes."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import ParallelThingsBlock
from torch import Tensor, nn

from ltx import Classifier, InputError
from ltx.attribution.attention import attention_chain
from ltx.attribution.attribute import attribute
from ltx.attribution.support import supported_methods
from tests.support.toy_models import seeded, vit


class OwnTransformer(nn.Module):
    """A user's transformer of PyTorch's encoder layers: 4 x 4 patches, mean over tokens."""

    def __init__(self, pre_norm: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.position = nn.Parameter(torch.zeros(1, 16, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=pre_norm)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.encoder(tokens).mean(1))


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_users_own_transformer(pre_norm: bool, images: Tensor) -> None:
    classifier = Classifier(seeded(OwnTransformer(pre_norm), 2.0), input_size=16, grid=(4, 4), prefix_tokens=0)
    chain = attention_chain(classifier)
    assert [call.module for call in chain.blocks] == list(classifier.model.encoder.layers)
    assert (chain.tokens, chain.heads) == (16, [2, 2, 2])
    assert chain.start.tolist() == pytest.approx([1 / 16] * 16)
    assert {"gae", "attention_rollout", "gradient_rollout", "iia3", "dix3", "gradcam"} <= set(
        supported_methods(classifier)
    )
    for method in ("gae", "iia2", "gradcam"):
        maps = attribute(method, classifier, images, [0, 1, 2])
        assert maps.shape == (3, 1, 16, 16)
        alone = attribute(method, classifier, images[2:], [2])
        torch.testing.assert_close(maps[2:], alone, rtol=1e-3, atol=1e-5 * float(maps.abs().max()))


def test_parallel_attentions_are_refused() -> None:
    classifier = Classifier(vit(block_fn=ParallelThingsBlock), input_size=(16, 24))
    with pytest.raises(InputError, match="parallel self-attentions"):
        attention_chain(classifier)


def test_attention_over_channels_is_refused() -> None:
    classifier = Classifier("xcit_nano_12_p16_224", weights="random", num_classes=3, input_size=64)
    with pytest.raises(InputError, match="attention that is not over all tokens of its final map"):
        attention_chain(classifier)


def test_convolutional_networks_have_no_attention(cnn: Classifier) -> None:
    with pytest.raises(InputError, match=r"no self-attention|no grid of tokens"):
        attention_chain(cnn)


def test_layers_after_the_last_attention_run_on_the_class_token_alone() -> None:
    classifier = Classifier(vit(), input_size=(16, 24))
    block = classifier.model.blocks[-1]
    later = attention_chain(classifier).later_modules
    assert set(later) == {block.mlp, block.attn.proj}
    assert attention_chain(Classifier(vit(global_pool="avg"), input_size=(16, 24))).later_modules == []
