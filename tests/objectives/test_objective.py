"""The weighted sum: one pass of the classifier, and its schedules."""

from __future__ import annotations

import torch

from ltx import keep
from ltx.objectives.keep import Keep
from ltx.objectives.objective import Objective
from ltx.objectives.ranking import Ranking
from ltx.objectives.remove import Remove
from ltx.objectives.settings import ObjectiveConfig
from tests.support.masked_batches import batch_for, left_half


def test_equal_masks_are_classified_once():
    batch = batch_for(left_half())
    batch.classifier.model.classified = 0
    config = ObjectiveConfig(keep=Keep(weight=2.0), remove=Remove(), ranking=Ranking(weight=1.0, areas=2))
    verdict = Objective(config)(batch)
    assert batch.classifier.model.classified == 6 * len(batch.images)  # kept, removed, and both sides of two areas
    assert set(verdict.terms) == {"keep", "remove", "area", "smoothness", "ranking"}
    assert list(verdict.logits) == [
        "kept",
        "removed",
        *(f"ranking {side} {i}" for i in range(2) for side in ("kept", "removed")),
    ]
    expected = sum(getattr(config, name).weight * term for name, term in verdict.terms.items())
    assert torch.allclose(verdict.loss, expected)


def test_logits_are_those_of_the_masked_images():
    mask = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = batch_for(mask)
    verdict = Objective()(batch)
    assert torch.allclose(verdict.logits["kept"], batch.classifier(keep(batch.images, mask, batch.background)))


def test_terms_of_weight_zero_are_not_computed():
    batch = batch_for(left_half())
    config = ObjectiveConfig(remove=Remove(weight=0.0))
    assert "removed" not in Objective(config)(batch).logits


def test_turns_classify_a_part_of_the_masked_images_and_their_mean_is_the_objective():
    batch = batch_for(left_half())
    whole = Objective(ObjectiveConfig(keep=Keep(weight=0.8), ranking=Ranking(weight=4.0)))
    first, second = whole.turns()
    verdicts = []
    for objective in (whole, first, second):
        batch.generator = torch.Generator().manual_seed(0)
        verdicts.append(objective(batch))
    assert [list(verdict.logits) for verdict in verdicts[1:]] == [
        ["kept", "removed"],
        ["ranking kept 0", "ranking removed 0"],
    ]
    assert [list(verdict.terms) for verdict in verdicts[1:]] == [
        ["keep", "remove", "area", "smoothness"],
        ["area", "smoothness", "ranking"],
    ]
    assert torch.allclose(verdicts[0].loss, (verdicts[1].loss + verdicts[2].loss) / 2)


def test_an_objective_whose_masked_images_belong_to_one_turn_has_no_others():
    plain = Objective(ObjectiveConfig(ranking=Ranking(weight=[[0.0, 4.0], [0.9, 0.0]])))
    assert plain.turns() == [plain]
    assert len(plain.turns(progress=0.0)) == 2, "schedules are read at the progress"
