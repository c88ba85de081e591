"""Binary heads: one logit, two classes that can both be targets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ltx.attribution.attribute import attribute
from ltx.classifier.choices import HeadName
from ltx.classifier.classifier import Classifier
from ltx.classifier.heads import log_complement, log_probability
from ltx.runtime.errors import InputError


class Brightness(nn.Module):
    """One logit: 4 × mean of the left half − 2; as `[B, 1]`, or `[B]`."""

    def __init__(self, squeezed: bool = False) -> None:
        super().__init__()
        self.squeezed = squeezed

    def forward(self, images: Tensor) -> Tensor:
        logits = 4 * images[..., :4].mean((1, 2, 3)) - 2
        return logits if self.squeezed else logits.unsqueeze(1)


@pytest.mark.parametrize("squeezed", [False, True])
def test_both_classes_of_one_logit(squeezed: bool) -> None:
    classifier = Classifier(Brightness(squeezed), head="binary", input_size=8)
    assert (classifier.num_classes, classifier.class_names) == (2, ["negative", "positive"])
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    logits = classifier(images)
    assert logits.tolist() == [[2, -2], [-2, 2]]
    probabilities = classifier.probabilities(logits)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    torch.testing.assert_close(probabilities[:, 1], torch.tensor([-2.0, 2.0]).sigmoid())
    assert classifier.targets(None, logits).tolist() == [0, 1]
    assert classifier.targets("negative", logits).tolist() == [0, 0]
    for target in (0, 1):
        targets = torch.tensor([target, target])
        torch.testing.assert_close(classifier.log_probability(logits, targets).exp(), probabilities[:, target])
        torch.testing.assert_close(classifier.log_complement(logits, targets).exp(), 1 - probabilities[:, target])


def test_why_not_has_the_opposite_gradient() -> None:
    classifier = Classifier(Brightness(), head="binary", input_size=8)
    images = torch.rand(1, 3, 8, 8)
    gradients = []
    for target in (0, 1):
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(classifier(leaf)[0, target], [leaf])
        gradients.append(gradient)
    assert gradients[1][..., :4].min() > 0
    assert torch.equal(gradients[0], -gradients[1])
    maps = [attribute("occlusion", classifier, images, target, window=2, stride=2) for target in (0, 1)]
    torch.testing.assert_close(maps[0], -maps[1])


def test_rows_of_both_classes() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    classifier = Classifier(module, head="binary", input_size=8)
    weight = classifier.model.get_submodule("3").weight
    rows = classifier.class_weights()
    assert rows is not None
    assert torch.equal(rows, torch.cat([-weight, weight]))  # type: ignore[list-item, operator]


def test_timm_model_with_a_binary_head() -> None:
    classifier = Classifier("resnet10t", weights="random", head="binary", input_size=64)
    assert classifier.num_classes == 2
    assert classifier(torch.rand(2, 3, 64, 64)).shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, r"one class, always of probability 1; set classifier\.head=binary"),
        ({"head": "binary", "num_classes": 3}, "num_classes=3: classifier.head=binary has two classes"),
    ],
)
def test_one_logit_needs_a_head_that_fits(options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Classifier(Brightness(), input_size=8, **options)  # type: ignore[arg-type]


def test_binary_head_of_several_logits_is_refused() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(InputError, match="head=binary is for one logit, and Sequential returns 3"):
        Classifier(module, head="binary", input_size=8)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
@pytest.mark.parametrize("function", [log_probability, log_complement])
def test_a_target_that_is_no_class_is_named(
    head: HeadName, function: Callable[[HeadName, Tensor, Tensor], Tensor]
) -> None:
    with pytest.raises(InputError, match="targets from 1 to 3; give classes from 0 to 2"):
        function(head, torch.zeros(2, 3), torch.tensor([1, 3]))
