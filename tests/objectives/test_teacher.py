"""The teacher term: a pairwise ranking loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ltx.objectives.masked_batch import MaskedBatch
from ltx.objectives.objective import Objective
from ltx.objectives.settings import ObjectiveConfig
from ltx.objectives.teacher import Teacher, ranks
from tests.support.masked_batches import batch_for, value


def batch_with_teacher(scores: Tensor, teacher: Tensor | None) -> MaskedBatch:
    batch = batch_for(torch.ones(len(scores), 1, 8, 8))
    batch.scores, batch.teacher = scores, teacher
    return batch


def cells(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_ranks_are_shares_below_with_ties_halved():
    assert ranks(cells(0.2, 5.0, 0.2, -1.0)).flatten().tolist() == [0.5, 0.875, 0.5, 0.125]
    assert ranks(torch.full((1, 1, 3, 3), 7.0)).unique().tolist() == [0.5]


def test_teacher_of_two_cells():
    # Standardised, scores of 1 and -1 (variance 2) are 2/√3 apart; the one pair has weight 1.
    term = Teacher(temperature=0.5)
    right, wrong = (value(term, batch_with_teacher(cells(*s), cells(0.1, 0.0))) for s in ((1.0, -1.0), (-1.0, 1.0)))
    assert right == pytest.approx(math.log1p(math.exp(-4 / math.sqrt(3))), rel=1e-5)
    assert wrong == pytest.approx(math.log1p(math.exp(4 / math.sqrt(3))), rel=1e-5)


def test_teacher_weights_pairs_by_their_ranks():
    # Ranks 1/6, 3/6, 5/6 by 3·3/4: weights 3/4 for neighbours, 3/2 for the ends. A shift by one or two shows the same
    # three pairs. Variance 3 halves the scores 3, 0, 0.
    batch = batch_with_teacher(cells(3.0, 0.0, 0.0), cells(0.3, 0.2, 0.1))
    neighbours, ends, tied = math.log1p(math.exp(-1.5)), math.log1p(math.exp(-1.5)), math.log(2)
    expected = (0.75 * neighbours + 1.5 * ends + 0.75 * tied) / 3
    assert value(Teacher(pairs=5, temperature=1.0), batch) == pytest.approx(expected, rel=1e-5)


def test_teacher_depends_on_the_order_alone():
    random = torch.Generator().manual_seed(0)
    scores, teacher = torch.randn(2, 1, 4, 4, generator=random), torch.rand(2, 1, 8, 8, generator=random)
    term = Teacher()
    first = term(batch_with_teacher(scores, teacher), {})
    for transformed in (teacher.exp(), 3 * teacher - 5, teacher**9):
        assert torch.equal(term(batch_with_teacher(scores, transformed), {}), first)
    assert torch.allclose(term(batch_with_teacher(scores + 20, teacher), {}), first, rtol=1e-4)
    high = [term(batch_with_teacher(scores * factor, teacher), {}) for factor in (100, 1000)]
    assert torch.allclose(*high, rtol=1e-3)


def test_teacher_changes_the_order_and_not_the_area():
    teacher = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    scores = torch.zeros(3, 1, 4, 4, requires_grad=True)
    term = Teacher(pairs=64)
    term(batch_with_teacher(scores, teacher), {}).sum().backward()
    assert scores.grad is not None
    assert torch.allclose(scores.grad.sum((1, 2, 3)), torch.zeros(3), atol=1e-6)
    for gradient, expected in zip(scores.grad, teacher, strict=True):
        assert torch.corrcoef(torch.stack([-gradient.flatten(), expected.flatten()]))[0, 1] > 0.9
    learned = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    adam = torch.optim.Adam([learned], lr=0.1)
    for step in range(150):
        batch = batch_with_teacher(learned, teacher)
        batch.generator = torch.Generator().manual_seed(step)
        adam.zero_grad()
        term(batch, {}).sum().backward()
        adam.step()
    for learned_ranks, expected in zip(ranks(learned.detach()), ranks(teacher), strict=True):
        assert torch.corrcoef(torch.stack([learned_ranks.flatten(), expected.flatten()]))[0, 1] > 0.97


def test_a_constant_teacher_has_no_gradient():
    scores = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    constant = torch.stack([torch.zeros(1, 7, 7), torch.full((1, 7, 7), 0.3)])
    values = Teacher()(batch_with_teacher(scores, constant), {})
    values.sum().backward()
    assert values.tolist() == [0, 0]
    assert scores.grad is not None
    assert not scores.grad.any()


def test_teacher_is_left_out_without_maps_and_at_weight_zero():
    scores, maps = torch.randn(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    objective = Objective(ObjectiveConfig(teacher=Teacher(weight=[[0, 2], [0.5, 0]])))
    assert objective.uses("teacher")
    assert "teacher" in objective(batch_with_teacher(scores, maps), 0.4).terms
    assert "teacher" not in objective(batch_with_teacher(scores, maps), 0.5).terms
    assert "teacher" not in objective(batch_with_teacher(scores, None), 0.0).terms
    assert not Objective().uses("teacher")


def test_with_shared_draws_the_teacher_treats_a_batch_as_its_images():
    random = torch.Generator().manual_seed(4)
    scores, maps = torch.randn(3, 1, 4, 4, generator=random), torch.rand(3, 1, 6, 6, generator=random)

    def values(rows: slice) -> Tensor:
        batch = batch_with_teacher(scores[rows], maps[rows])
        batch.shared_draws = True
        return Teacher()(batch, {})

    together = values(slice(None))
    for row in range(3):
        assert torch.allclose(values(slice(row, row + 1)), together[row : row + 1], rtol=1e-5)


def test_ties_are_not_ordered():
    teacher = cells(1.0, 0.0, 0.0, 0.0)
    values = [
        value(Teacher(pairs=50), batch_with_teacher(cells(4.0, *low), teacher)) for low in ((0, -1, 1), (1, 0, -1))
    ]
    assert values[0] == pytest.approx(values[1], rel=0.02)  # up to the random choice of pairs
