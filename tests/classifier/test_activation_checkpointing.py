"""Recomputed activations: the same gradients for less memory."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from ltx import Classifier


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "tf_efficientnet_lite0"])
def test_checkpointed_activations_do_not_change_the_gradient(name: str) -> None:
    classifier = Classifier(name, weights="random", num_classes=5, input_size=64)
    images = torch.rand(2, 3, 64, 64, requires_grad=True)

    def gradient() -> Tensor:
        images.grad = None
        classifier(images)[:, 1].sum().backward()
        assert images.grad is not None
        return images.grad.clone()

    plain = gradient()
    classifier.checkpoint_activations()
    calls: list[str] = []
    blocks = [key for key, _ in classifier.model.named_modules() if re.fullmatch(r"(layer\d|blocks)\.1(\.0)?", key)]
    inner = classifier.model.get_submodule(blocks[-1])
    inner.register_forward_pre_hook(lambda *_: calls.append("forward"))
    assert torch.allclose(gradient(), plain, atol=1e-6 * float(plain.abs().max()))
    assert len(calls) == 2, "recomputed in the backward pass"
