"""The ranking term: its masks, its value and its gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltx.objectives.masked_batch import classify
from ltx.objectives.ranking import Ranking
from tests.support.masked_batches import batch_for, left_half


def test_hard_ranking_masks_are_those_of_deletion_and_insertion():
    torch.manual_seed(0)
    scores = torch.rand(1, 1, 4, 4)
    batch = batch_for(left_half())
    batch.scores = scores
    term = Ranking(areas=3, hard=True)
    masks = term.masks(batch)
    assert len(masks) == 6
    areas = 0.05 + 0.85 * torch.rand(1, 3, generator=torch.Generator().manual_seed(0))
    for index in range(3):
        kept = masks[f"ranking kept {index}"]
        assert torch.allclose(kept + masks[f"ranking removed {index}"], torch.ones_like(kept))
        top = 16 - int((1 - areas[0, index]) * 16)
        expected = torch.zeros(16).scatter(0, scores.flatten().topk(top).indices, 1).view(1, 1, 4, 4)
        shown = torch.nn.functional.interpolate(expected, (8, 8), mode="bilinear", align_corners=False)
        assert torch.allclose(kept, shown, atol=1e-5)


def test_hard_ranking_keeps_its_area_within_the_allowed_pixels():
    """Forbidden places hold the highest scores: they are not counted among those that are kept."""
    scores = torch.arange(16.0).view(1, 1, 4, 4)
    allowed = torch.ones(1, 1, 8, 8)
    allowed[..., 4:, :] = 0
    batch = replace(batch_for(left_half()), scores=scores, allowed=allowed)
    kept = Ranking(hard=True, low=0.21, high=0.25).masks(batch)["ranking kept 0"]
    expected = torch.zeros(1, 1, 4, 4)
    expected[..., 1, :] = 1  # the best quarter that may be kept
    shown = torch.nn.functional.interpolate(expected, (8, 8), mode="bilinear", align_corners=False) * allowed
    assert torch.allclose(kept, shown, atol=1e-5)


def test_ranking_loss_is_lower_for_the_right_order_and_descends_towards_it():
    right, wrong = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    right[..., :2], wrong[..., 2:] = 1, 1
    values = []
    for scores in (right, wrong):
        batch = batch_for(left_half())
        batch.scores = scores.clone().requires_grad_()
        term = Ranking(areas=4, low=0.3, high=0.7)
        loss = term(batch, classify(batch, term.masks(batch))).sum()
        loss.backward()
        values.append(float(loss.detach()))
        gradient = batch.scores.grad
        assert gradient is not None
        # Descent raises the left half, where the class is, against the right.
        assert float(gradient[..., :2].mean()) < float(gradient[..., 2:].mean())
    assert values[0] < values[1]


@pytest.mark.parametrize("kind", ["log", "probability"])
def test_ranking_is_invariant_to_level_and_scale_of_the_scores(kind: str):
    """Else all scores would rise with time: a larger kept part and a smaller removed one are both rewarded."""
    scores = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    values, gradients = [], []
    for scale, level in ((1.0, 0.0), (3.0, 5.0)):
        batch = batch_for(left_half())
        batch.scores = (scale * scores + level).requires_grad_()
        term = Ranking(areas=2, kind=kind)
        loss = term(batch, classify(batch, term.masks(batch))).sum()
        loss.backward()
        assert batch.scores.grad is not None
        assert float(batch.scores.grad.sum()) == pytest.approx(0, abs=1e-5)
        values.append(float(loss.detach()))
        gradients.append(scale * batch.scores.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4)


@pytest.mark.parametrize("kind", ["log", "probability"])
def test_ranking_weights_the_removed_pixels(kind: str):
    logits = {"ranking kept 0": torch.tensor([[2.0, 0.0]]), "ranking removed 0": torch.tensor([[1.0, 0.0]])}
    kept, removed = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))
    parts = (1 - kept, removed) if kind == "probability" else (-math.log(kept), -math.log(1 - removed))
    for weight in (0.0, 1.0, 3.0):
        found = Ranking(kind=kind, removed=weight)(batch_for(left_half()), logits)
        assert found.item() == pytest.approx(parts[0] + weight * parts[1], rel=1e-5)


def test_with_shared_draws_a_batch_equals_its_images():
    scores = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    mask = torch.nn.functional.interpolate(scores, (8, 8))
    term = Ranking(areas=2, noise=0.1)

    def masks(index: slice) -> dict[str, Tensor]:
        batch = batch_for(mask[index])
        batch.scores, batch.shared_draws = scores[index], True
        return term.masks(batch)

    together = masks(slice(None))
    for row in range(3):
        for name, alone in masks(slice(row, row + 1)).items():
            assert torch.allclose(alone, together[name][row : row + 1], atol=1e-6)
