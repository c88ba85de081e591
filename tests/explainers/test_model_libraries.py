"""The same network in timm's, torchvision's and transformers' classes trains the same explainer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.fill import Fill
from ltx.objectives.objective import Objective
from ltx.objectives.settings import ObjectiveConfig
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.settings import OptimiserConfig
from tests.support.toy_models import seeded

transformers = pytest.importorskip("transformers", minversion="5", reason="transformers 5 is not installed")

from tests.support import renamed_weights as renamed  # noqa: E402  # it imports transformers

Convert = Callable[[nn.Module], nn.Module]


def trained_masks(classifier: Classifier) -> Tensor:
    """Masks of an explainer with the shared trunk after three training steps."""
    torch.manual_seed(0)
    explainer = ExplainerConfig().build(classifier).train()
    module = LTXPretraining(explainer, Objective(ObjectiveConfig()), Fill(), OptimiserConfig(), max_steps=10)
    optimiser = torch.optim.AdamW([p for p in explainer.parameters() if p.requires_grad], lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *classifier.input_size, generator=generator)
    for _ in range(3):
        _, verdict = module.evaluate_objective(images, generator)
        optimiser.zero_grad()
        verdict.loss.mean().backward()
        optimiser.step()
    with torch.no_grad():
        masks: Tensor = explainer.eval()(images, 1)
    return masks


def compare(reference: Classifier, convert: Convert) -> None:
    expected = trained_masks(reference)
    assert expected.std() > 1e-3
    masks = trained_masks(renamed.wrapped(convert(reference.model), reference))
    # AdamW's first steps have the size of the learning rate whatever the gradient, which amplifies rounding.
    torch.testing.assert_close(masks, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("convert", [renamed.vit_in_torchvision, renamed.vit_in_transformers])
def test_transformer(convert: Convert) -> None:
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2, num_classes=5)
    compare(Classifier(seeded(model, scale=2.0), input_size=32, mean=renamed.MEAN, std=renamed.STD), convert)


@pytest.mark.parametrize("convert", [renamed.resnet_in_torchvision, renamed.resnet_in_transformers])
def test_resnet(convert: Convert) -> None:
    compare(renamed.random_timm("resnet18", 64), convert)


@pytest.mark.slow
@pytest.mark.parametrize("convert", [renamed.convnext_in_torchvision, renamed.convnext_in_transformers])
def test_convnext(convert: Convert) -> None:
    compare(renamed.random_timm("convnext_tiny", 64), convert)


@pytest.mark.slow
@pytest.mark.parametrize("convert", [renamed.swin_in_torchvision, renamed.swin_in_transformers])
def test_swin(convert: Convert) -> None:
    compare(renamed.random_timm("swin_tiny_patch4_window7_224", 224), convert)


@pytest.mark.slow
@pytest.mark.parametrize("convert", [renamed.vit_in_torchvision, renamed.vit_in_transformers])
def test_deit_tiny(convert: Convert, deit_tiny: Classifier) -> None:
    compare(deit_tiny, convert)
