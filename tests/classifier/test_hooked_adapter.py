"""Feature maps, tokens and heads of modules outside timm, inferred from one recorded forward pass."""

from __future__ import annotations

import pytest
import torch
import torchvision
import transformers
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.classifier.feature_maps import features
from ltx.runtime.errors import InputError
from tests.support.toy_models import ThreeStages

VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 64}
SWIN = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2], "image_size": 64, "patch_size": 2}


class PatchTokens(nn.Module):
    """A transformer of `nn.MultiheadAttention` whose tokens come from a linear layer, not a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 64, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        layers = [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0) for _ in range(2)]
        self.blocks = nn.Sequential(*layers)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        patches = nn.functional.unfold(x, 8, stride=8).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.embed(patches)], 1)
        logits: Tensor = self.fc(self.blocks(tokens)[:, 0])
        return logits


def seeded(build: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = build()  # type: ignore[operator]
    return module


def stage_names(classifier: Classifier) -> list[str]:
    return [point.name for point in classifier.interface.layout.stages]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("build", "stages", "final", "head"),
    [
        (
            lambda: torchvision.models.resnet18(num_classes=5),
            ["relu", "layer1", "layer2", "layer3", "layer4"],
            "layer4",
            512,
        ),
        (
            lambda: torchvision.models.convnext_tiny(num_classes=5),
            ["features.1", "features.3", "features.5", "features.7"],
            "features.7",
            768,
        ),
        (
            lambda: torchvision.models.swin_t(num_classes=5),
            ["features.1", "features.3", "features.5", "features.7"],
            "permute",
            768,
        ),
        (
            lambda: transformers.SwinForImageClassification(transformers.SwinConfig(**SWIN, window_size=4)),
            [f"swin.encoder.layers.{i}.blocks.{b}" for i, b in enumerate([0, 0, 1, 0])],
            "swin.layernorm",
            128,
        ),
        (
            lambda: transformers.ResNetForImageClassification(
                transformers.ResNetConfig(hidden_sizes=[16, 32, 64, 128], depths=[1] * 4, embedding_size=16)
            ),
            ["resnet.embedder.embedder", *(f"resnet.encoder.stages.{i}" for i in range(4))],
            "resnet.encoder.stages.3",
            128,
        ),
    ],
    ids=["resnet", "convnext", "swin", "hf swin", "hf resnet"],
)
def test_stages_of_a_pyramid_end_before_the_next_resolution(
    build: object, stages: list[str], final: str, head: int
) -> None:
    classifier = Classifier(seeded(build), input_size=64, mean=[0.5] * 3, std=[0.5] * 3)
    assert stage_names(classifier) == stages
    layout = classifier.interface.layout  # type: ignore[attr-defined]
    assert layout.final.name == final
    rows = classifier.class_weights()
    assert rows is not None
    assert rows.shape == (classifier.num_classes, head)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, maps = classifier.logits_and_features(images)
        assert torch.equal(logits, classifier(images))
    assert [stage.shape[1:] for stage in (*maps.stages, maps.final)] == classifier.feature_shapes()
    sides = [stage.shape[-1] for stage in maps.stages]
    assert sides == sorted(sides, reverse=True)
    assert maps.final.shape[-2:] == classifier.grid


@pytest.mark.parametrize(
    ("build", "norm", "prefix"),
    [
        (lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)), "vit.layernorm", 1),
        (lambda: transformers.BeitForImageClassification(transformers.BeitConfig(**VIT)), "beit.pooler.layernorm", 1),
        (
            lambda: torchvision.models.VisionTransformer(64, 16, 3, 2, 32, 64, num_classes=5),
            "encoder.ln",
            1,
        ),
        (
            lambda: transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**VIT)),
            "deit.layernorm",
            2,
        ),
    ],
    ids=["hf vit", "hf beit", "vit", "hf distilled deit"],
)
def test_stages_of_a_transformer_are_its_blocks(build: object, norm: str, prefix: int) -> None:
    classifier = Classifier(seeded(build), mean=[0.5] * 3, std=[0.5] * 3)
    assert classifier.input_size == (64, 64)
    assert len(stage_names(classifier)) == 3
    assert classifier.grid == (4, 4)
    assert classifier.num_prefix_tokens == prefix
    assert classifier.interface.final_norm is classifier.model.get_submodule(norm)
    assert classifier.interface.read_tokens == (0 if "beit" in norm else prefix)  # BEiT pools its patches
    rows = classifier.class_weights()
    assert rows is not None
    assert rows.shape == (classifier.num_classes, 32)


def test_grid_and_prefix_of_tokens_that_no_convolution_made() -> None:
    module = seeded(PatchTokens)
    unknown = Classifier(module, input_size=32)
    with pytest.raises(InputError, match=r"no feature maps .*features=\[…\]"):
        unknown.feature_shapes()
    classifier = Classifier(module, input_size=32, grid=(4, 4), prefix_tokens=1)
    assert classifier.num_prefix_tokens == 1
    assert classifier.interface.read_tokens == 1
    assert classifier.feature_shapes() == [torch.Size((16, 4, 4))] * 3


def test_named_features_head_and_forward() -> None:
    module = ThreeStages()
    classifier = Classifier(
        module,
        input_size=16,
        features=["stem", "last"],
        head="head",
        forward=lambda m, x: {"logits": m(x), "extra": x},
    )
    assert stage_names(classifier) == ["stem", "last"]
    assert classifier.feature_shapes() == [torch.Size((6, 8, 8)), torch.Size((10, 2, 2)), torch.Size((10, 2, 2))]
    rows = classifier.class_weights()
    assert rows is not None
    assert torch.equal(rows, module.head.weight)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"features": ["stemm"]}, r"features: 'stemm' is not a module of ThreeStages; did you mean stem"),
        ({"features": ["hidden"]}, r"features: 'hidden' returns \(1, 12\), which is not a feature map"),
        ({"features": []}, "features is an empty list"),
        ({"features": "stem"}, "features='stem'; give a list of module names"),
        ({"head": "heads"}, "head_layer: 'heads' is not a module of ThreeStages; did you mean head"),
        ({"grid": 0}, "grid=0; give one positive integer"),
        ({"prefix_tokens": -1}, "prefix_tokens=-1; give 0 or more"),
        ({"colour": 1}, r"classifier\.colour is unknown"),
    ],
)
def test_layers_that_do_not_exist(options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Classifier(ThreeStages(), input_size=16, **options).feature_shapes()  # type: ignore[arg-type]


def test_trunk_is_a_trainable_copy_without_the_head() -> None:
    classifier = Classifier(seeded(lambda: torchvision.models.resnet18(num_classes=5)), input_size=64)
    trunk = classifier.interface.trunk()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        _, expected = classifier.logits_and_features(images)
    maps = features(trunk.eval(), images, None)
    for stage, other in zip((*maps.stages, maps.final), (*expected.stages, expected.final), strict=True):
        torch.testing.assert_close(stage, other)
    assert all(parameter.requires_grad for parameter in trunk.parameters())
    assert not any("fc" in name for name, _ in trunk.named_parameters())
    assert not any(parameter.requires_grad for parameter in classifier.model.parameters())


def test_hooks_are_gone_after_every_pass() -> None:
    classifier = Classifier(ThreeStages(), input_size=16)
    classifier.logits_and_features(torch.rand(1, 3, 16, 16))
    classifier.interface.trunk()
    hooks = [
        hook
        for module in classifier.model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    assert hooks == []


def test_fused_norms_change_neither_features_nor_logits() -> None:
    classifier = Classifier(seeded(lambda: torchvision.models.resnet18(num_classes=5)), input_size=64)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits, maps = classifier.logits_and_features(images)
        again, fused = classifier.fold_norms().logits_and_features(images)
    assert classifier._frozen() is not classifier.model
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused.final, maps.final, rtol=1e-4, atol=1e-4)


def test_a_compiled_model_has_the_same_features_and_logits() -> None:
    """Hooks that are registered after compilation are ignored in compiled code, so features are read uncompiled."""
    module, images = ThreeStages().eval(), torch.rand(2, 3, 16, 16)
    classifier = Classifier(module, input_size=16)
    logits, maps = classifier.logits_and_features(images)
    compiled = Classifier(torch.compile(module, backend="eager"), input_size=16)  # type: ignore[arg-type]  # annotated as a function
    compiled.model.compile(backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(images), logits)
        again, same = compiled.logits_and_features(images)
        torch.testing.assert_close([again, *same.stages, same.final], [logits, *maps.stages, maps.final])
    trunk = compiled.interface.trunk()
    torch.testing.assert_close(features(trunk, images, None).stages, maps.stages)
