"""Kept and removed probabilities are computed when they are read, once, in one batched pass."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from ltx import Classifier, finetune
from ltx.explainers.settings import ExplainerConfig
from ltx.results.explanation import Explanation


@pytest.mark.parametrize("way", ["explain", "finetune"])
def test_probabilities_are_computed_when_read(way: str) -> None:
    torch.manual_seed(0)
    classifier = Classifier("resnet10t", weights="random", num_classes=5, input_size=64)
    explainer, images = ExplainerConfig().build(classifier).eval(), torch.rand(3, 3, 64, 64)
    passes: list[int] = []
    classifier.model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    # A batch of 3 images has 6 masked images, which a CPU classifies four and two at once.
    explanation = explainer.explain(images, 1) if way == "explain" else finetune(explainer, images, 1, steps=0)
    assert not passes, "the unmasked forward pass reads features: it is no call of the model"
    kept, removed = explanation.probability_kept, explanation.probability_removed
    assert kept is not None
    assert removed is not None
    assert passes == [4, 2]
    assert explanation.probability_kept is kept, "read again, not computed again"
    assert explanation.mask is not None
    for probability, mask in ((kept, explanation.mask), (removed, 1 - explanation.mask)):
        with torch.no_grad():
            expected = classifier.probabilities(classifier(images * mask))[:, 1]
        assert torch.allclose(probability, expected, atol=1e-6)


def test_copies_and_transfers_of_an_explanation_have_its_probabilities() -> None:
    image, number = torch.zeros(1, 3, 8, 8), torch.tensor([0.25])
    calls: list[int] = []

    def computed() -> torch.Tensor:
        calls.append(1)
        return number

    one = torch.zeros(1)
    explanation = Explanation(image, image[:, :1], one, ["x"], one, "ltx", image[:, :1], computed, None)
    assert not calls
    assert copy.copy(explanation).probability_kept is number
    assert replace(explanation, steps=3).probability_kept is number
    assert explanation.on_cpu().probability_kept == 0.25
    assert explanation.probability_removed is None
    assert len(calls) == 2, "once for the copy that was read first, and once for the original"
