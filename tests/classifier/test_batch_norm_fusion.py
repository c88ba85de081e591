"""Batch normalisation fused into convolutions computes the same function."""

import copy

import pytest
import timm
import torch
from torch import nn

from ltx.attribution.attribute import attribute
from ltx.attribution.support import supported_methods
from ltx.classifier.batch_norm_fusion import folded
from ltx.classifier.classifier import Classifier


def with_statistics(model: nn.Module) -> nn.Module:
    """`model` in eval mode with random normalisation statistics."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean = torch.randn(module.running_mean.shape, generator=generator) / 10
            module.running_var = torch.rand(module.running_mean.shape, generator=generator) + 0.5
    return model.eval().requires_grad_(False)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [("resnet18", 0), ("regnety_002", 0), ("densenet121", 62), ("resnetv2_50", 17), ("hrnet_w18_small", 0)],
)
def test_fused_model_has_the_same_logits(name: str, left: int):
    torch.manual_seed(0)
    model = with_statistics(timm.create_model(name, num_classes=5))
    fused = folded(model, (2, 3, 64, 64))
    assert norms(fused) == left
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fused(images), model(images), rtol=1e-4, atol=1e-4)
    assert norms(model) > left, "the model itself is unchanged"


def test_convolution_with_several_consumers_is_not_fused():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.head((self.norm(x) + x).mean((2, 3)))

    model = with_statistics(Twice())
    assert folded(model, (2, 3, 8, 8)) is model


def test_fused_classifier_has_the_same_logits_features_and_gradients(lite0: Classifier):
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain = Classifier()
    logits, found = plain.logits_and_features(images)
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), images)
    fingerprint = plain.fingerprint()
    plain.fold_norms()
    again, same = plain.logits_and_features(images)
    (others,) = torch.autograd.grad(again[:, 3].sum(), images)
    assert norms(plain._frozen()) == 0
    assert torch.allclose(again, logits, atol=1e-3)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(same.stages, found.stages, strict=True))
    assert torch.nn.functional.cosine_similarity(gradient.flatten(1), others.flatten(1)).min() > 0.999
    assert plain.fingerprint() == fingerprint
    with plain.unfolded():
        assert plain._frozen() is plain.model


def test_attribution_hooks_the_model_itself(lite0: Classifier):
    """Methods hook the model's modules, which the fused copy does not run."""
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = attribute("gradcam", lite0, images)
    folded = Classifier().fold_norms()
    assert "gradcam" in supported_methods(folded)
    assert torch.allclose(attribute("gradcam", folded, images), expected, atol=1e-6)


def test_attention_is_found_with_and_without_fused_norms():
    """The convolutional stem of a hybrid is fused, so its attention blocks belong to the copy."""
    torch.manual_seed(0)
    model = with_statistics(timm.create_model("vit_small_resnet26d_224", num_classes=5, img_size=64))
    plain, fewer = (Classifier(model, input_size=64, num_classes=5) for _ in range(2))
    fewer.model = copy.deepcopy(model)  # results are cached per model
    fewer.fold_norms()
    assert fewer._frozen() is not fewer.model
    assert supported_methods(fewer) == supported_methods(plain)
    assert "gae" in supported_methods(fewer)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = [attribute("iia2", classifier, images, 1, steps=1) for classifier in (fewer, plain)]
    assert torch.allclose(*maps, rtol=1e-4, atol=1e-6)


def test_pixel_attribution_runs_the_fused_copy(lite0: Classifier):
    """Pixel methods need only logits and gradients, which the copy computes in half the time."""
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = attribute("integrated_gradients", lite0, images, 3, steps=2)
    folded, seen = Classifier().fold_norms(), list[int]()
    folded._frozen().register_forward_hook(lambda *_: seen.append(1))
    found = attribute("integrated_gradients", folded, images, 3, steps=2)
    assert seen
    assert torch.nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1)) > 0.999
