"""The same network in timm's, torchvision's and transformers' classes trains the same explainer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.fill import Fill
from ltx.objectives.objective import Objective
from ltx.objectives.settings import ObjectiveConfig
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.settings import OptimiserConfig

transformers = pytest.importorskip("transformers", minversion="5", reason="transformers 5 is not installed")

from tests.support.model_pairs import PAIRS, Convert, Reference  # noqa: E402  # it imports transformers
from tests.support.renamed_weights import wrapped  # noqa: E402

LR = 0.01
"""Moves masks by 0.3. At 0.03, rounding alone (timm with explicit attention) moves those of DeiT-Tiny by 1.6e-4."""
STEPS = 3


def masks_before_and_after(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Masks of an explainer with the shared trunk before and after training steps.

    With SGD: the first steps of AdamW have the size of the learning rate whatever the gradient, which turns rounding
    in small gradients into a difference of 1e-3.
    """
    torch.manual_seed(0)
    explainer = ExplainerConfig().build(classifier)
    module = LTXPretraining(explainer, Objective(ObjectiveConfig()), Fill(), OptimiserConfig(), max_steps=10)
    optimiser = torch.optim.SGD([p for p in explainer.parameters() if p.requires_grad], lr=LR)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *classifier.input_size, generator=generator)
    with torch.no_grad():
        before = explainer.eval()(images, 1)
    explainer.train()
    for _ in range(STEPS):
        _, verdict = module.evaluate_objective(images, generator)
        optimiser.zero_grad()
        verdict.loss.mean().backward()
        optimiser.step()
    with torch.no_grad():
        return before, explainer.eval()(images, 1)


@pytest.mark.parametrize(("reference", "convert"), PAIRS)
def test_training_gives_equal_masks(reference: Reference, convert: Convert, request: pytest.FixtureRequest) -> None:
    classifier = reference(request)
    before, expected = masks_before_and_after(classifier)
    assert (expected - before).abs().max() > 0.01
    _, masks = masks_before_and_after(wrapped(convert(classifier.model), classifier))
    torch.testing.assert_close(masks, expected, rtol=0, atol=1e-4)
