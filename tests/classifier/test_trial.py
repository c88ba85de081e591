"""Each way in which a module is not a usable classifier is refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError


class Linear(nn.Module):
    """Logits of pooled pixels, changed by a function."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda logits: logits, classes: int = 3) -> None:
        super().__init__()
        self.fc, self.change = nn.Linear(3 * 16, classes), change
        with torch.no_grad():
            self.fc.weight.copy_(torch.randn(self.fc.weight.shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.fc(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)))


class WithoutGradient(Linear):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(images)


class Several(Linear):
    def forward(self, images: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(images * mask)


@pytest.mark.parametrize(
    ("module", "head", "text"),
    [
        (WithoutGradient(), "softmax", "without a gradient to the pixels"),
        (Linear(lambda x: x.detach().requires_grad_()), "softmax", "without a gradient to the pixels"),
        (Linear(lambda x: x[:1]), "softmax", r"returns \(1, 3\) for a batch of two images"),
        (Linear(lambda x: x * math.nan), "softmax", "logits that are not finite|gradient to the pixels that is not"),
        (Linear(lambda x: x + torch.rand_like(x)), "softmax", "is random in eval mode"),
        (Linear(lambda x: nn.functional.dropout(x, 0.5)), "softmax", "is random in eval mode"),
        (Linear(lambda x: x - x.mean(0)), "softmax", "other logits in another batch"),
        (Linear(lambda x: x.softmax(1)), "softmax", "returns probabilities, not logits; remove its last softmax"),
        (Linear(lambda x: x.sigmoid()), "sigmoid", "returns probabilities, not logits; remove its last sigmoid"),
        (Linear(lambda x: x.sigmoid(), 1), "binary", "returns probabilities, not logits; remove its last sigmoid"),
        (Linear(lambda x: x.mean(1)), "softmax", r"returns \(2,\); a classifier returns logits \[B, K\]"),
        (Several(), "softmax", r"takes several arguments \(images, mask\)"),
        (Linear(lambda x: x.view(3, 5, 7)), "softmax", "cannot run on a batch of two images .*check input_size"),
    ],
)
def test_module_that_is_not_a_usable_classifier(module: nn.Module, head: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        Classifier(module, input_size=8, head=head)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [lambda x: x, lambda x: x.log_softmax(1), lambda x: x.sigmoid() * 4 - 2, lambda x: x.tanh(), lambda x: x * 0],
)
def test_logits_of_any_range_are_accepted(change: Callable[[Tensor], Tensor]) -> None:
    assert Classifier(Linear(change), input_size=8).num_classes == 3


def test_trial_draws_no_random_numbers_of_the_caller() -> None:
    module = Linear(lambda x: x + torch.rand_like(x))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with pytest.raises(InputError, match="random in eval mode"):
        Classifier(module, input_size=8)
    assert torch.equal(torch.rand(1), expected)
