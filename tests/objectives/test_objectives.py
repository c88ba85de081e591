"""Each term against values worked out by hand, and the one-pass mechanism."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ltx import Classifier, InputError, keep
from ltx.objectives.area import Area
from ltx.objectives.elsewhere import Elsewhere
from ltx.objectives.keep import Keep
from ltx.objectives.masked_batch import MaskedBatch, classify
from ltx.objectives.objective import Objective
from ltx.objectives.ranking import Ranking
from ltx.objectives.remove import Remove
from ltx.objectives.settings import TERMS, ObjectiveConfig
from ltx.objectives.smoothness import Smoothness
from ltx.objectives.teacher import Teacher, ranks
from ltx.objectives.terms import ever_weighs, scheduled


class Corners(nn.Module):
    """Class 0 is the mean of the left half's red, class 1 of the right half's, times 10; counts the images shown."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.shown = 0

    def forward(self, x: Tensor) -> Tensor:
        self.shown += len(x)
        half = x.shape[-1] // 2
        return 10 * torch.stack([x[:, 0, :, :half].mean((1, 2)), x[:, 0, :, half:].mean((1, 2))], 1)


def batch_for(mask: Tensor, head: str = "softmax", target: int = 0) -> MaskedBatch:
    classifier = Classifier(Corners(), input_size=8, head=head)
    images = torch.ones(len(mask), 3, 8, 8)
    scores = torch.nn.functional.interpolate(torch.logit(mask, eps=1e-6), (4, 4), mode="nearest")
    return MaskedBatch(
        classifier=classifier,
        images=images,
        background=torch.zeros_like(images),
        targets=torch.full((len(mask),), target),
        unmasked_logits=classifier(images),
        scores=scores,
        mask=mask,
        generator=torch.Generator().manual_seed(0),
    )


def left_half() -> Tensor:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    return mask


def value(term, batch: MaskedBatch) -> float:
    return float(term(batch, classify(batch, term.masks(batch))))


def test_keep_and_remove_on_the_linear_classifier():
    # Kept left half: logits (10, 0); removed: (0, 10); whole: (10, 10).
    batch = batch_for(left_half())
    p = math.exp(10) / (math.exp(10) + 1)
    assert value(Keep(), batch) == pytest.approx(-math.log(p), abs=1e-6)
    assert value(Keep(kind="lost_probability"), batch) == pytest.approx(1 - p, abs=1e-6)
    assert value(Keep(kind="logit"), batch) == pytest.approx(-10)
    assert value(Keep(kind="kl"), batch) == pytest.approx(
        0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p)), rel=1e-4
    )
    assert value(Remove(), batch) == pytest.approx(-math.log(p), abs=1e-6)
    assert value(Remove(kind="logit"), batch) == pytest.approx(0)
    assert value(Remove(), batch_for(1 - left_half())) == pytest.approx(10 + math.log1p(math.exp(-10)), rel=1e-5)


def test_elsewhere_is_the_kept_share_of_other_photographs():
    # A mask of 0.25 over a quarter that is another photograph, and of 1 in the left half elsewhere.
    mask = left_half()
    mask[..., 4:, :4] = 0.25
    batch = batch_for(mask)
    assert value(Elsewhere(), batch) == 0, "whole photographs"
    other = torch.zeros(1, 1, 8, 8)
    other[..., 4:, :4] = 1
    assert value(Elsewhere(), replace(batch, elsewhere=other)) == pytest.approx(0.25 * 0.25)
    config = ObjectiveConfig(**{name: replace(getattr(ObjectiveConfig(), name), weight=0.0) for name in TERMS})
    config.elsewhere.weight, config.area.weight = 6.0, 2.0
    verdict = Objective(config)(replace(batch, elsewhere=other))
    assert float(verdict.loss) == pytest.approx(6 * 0.0625 + 2 * (0.25 + 0.0625))
    assert float(Objective(config)(batch).loss) == pytest.approx(2 * (0.25 + 0.0625))


def test_sigmoid_heads_read_one_logit():
    batch = batch_for(left_half(), head="sigmoid")
    assert value(Keep(), batch) == pytest.approx(math.log1p(math.exp(-10)), abs=1e-6)
    assert value(Remove(), batch) == pytest.approx(math.log(2), rel=1e-5)  # logit 0
    assert value(Keep(kind="kl"), batch_for(torch.ones(1, 1, 8, 8), head="sigmoid")) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("l1", 0.25),
        ("released", 0.25 * math.log1p(math.e) + 0.75 * math.log(2)),
        ("band", 0.05),
        ("sorted", (0.5 - 0.25)),
    ],
)
def test_area_of_a_quarter(kind: str, expected: float):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :4] = 1
    term = Area(kind=kind, low=0.0, high=0.2, target=0.5)
    assert value(term, batch_for(mask)) == pytest.approx(expected, rel=1e-4)


def test_area_of_a_grey_mask():
    mask = torch.full((1, 1, 8, 8), 0.25)
    assert value(Area(kind="bce"), batch_for(mask)) == pytest.approx(-math.log(0.75), rel=1e-4)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert value(Area(kind="entropy"), batch_for(mask)) == pytest.approx(entropy, rel=1e-4)
    # Sorted: r is 1 on the top half: mean of 0.25² and 0.75².
    sorted_value = value(Area(kind="sorted", target=0.5), batch_for(mask))
    assert sorted_value == pytest.approx((0.0625 + 0.5625) / 2, rel=1e-4)


def test_sorted_area_is_zero_for_a_binary_mask_of_that_area():
    assert value(Area(kind="sorted", target=0.5), batch_for(left_half())) == pytest.approx(0, abs=1e-6)


def test_smoothness_counts_the_one_edge():
    # On the 4x4 grid one of three horizontal neighbour pairs in each row differs by 1.
    for power in (1.0, 2.0):
        assert value(Smoothness(power=power), batch_for(left_half())) == pytest.approx(1 / 3, rel=1e-3)


def test_smoothness_of_a_grid_of_one_row():
    batch = replace(batch_for(left_half()), scores=torch.tensor([[[[-9.0, -9.0, 9.0]]]]))
    assert value(Smoothness(), batch) == pytest.approx(1 / 2, rel=1e-3)
    assert value(Smoothness(), replace(batch, scores=torch.zeros(1, 1, 1, 1))) == 0


def test_ranking_shows_the_composites_of_deletion_and_insertion():
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


def test_hard_ranking_keeps_its_area_of_what_is_allowed():
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


def test_ranking_prefers_the_right_order_and_moves_towards_it():
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
def test_ranking_knows_neither_the_level_nor_the_scale_of_the_scores(kind: str):
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
def test_ranking_weighs_what_is_removed(kind: str):
    logits = {"ranking kept 0": torch.tensor([[2.0, 0.0]]), "ranking removed 0": torch.tensor([[1.0, 0.0]])}
    kept, removed = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))
    parts = (1 - kept, removed) if kind == "probability" else (-math.log(kept), -math.log(1 - removed))
    for weight in (0.0, 1.0, 3.0):
        found = Ranking(kind=kind, removed=weight)(batch_for(left_half()), logits)
        assert found.item() == pytest.approx(parts[0] + weight * parts[1], rel=1e-5)


def test_equal_masks_are_shown_once():
    batch = batch_for(left_half())
    batch.classifier.model.shown = 0
    config = ObjectiveConfig(keep=Keep(weight=2.0), remove=Remove(), ranking=Ranking(weight=1.0, areas=2))
    verdict = Objective(config)(batch)
    assert batch.classifier.model.shown == 6 * len(batch.images)  # kept, removed, and both sides of two areas
    assert set(verdict.terms) == {"keep", "remove", "area", "smoothness", "ranking"}
    assert list(verdict.logits) == [
        "kept",
        "removed",
        *(f"ranking {side} {i}" for i in range(2) for side in ("kept", "removed")),
    ]
    expected = sum(getattr(config, name).weight * term for name, term in verdict.terms.items())
    assert torch.allclose(verdict.loss, expected)


def test_logits_are_those_of_the_composites():
    mask = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = batch_for(mask)
    verdict = Objective()(batch)
    assert torch.allclose(verdict.logits["kept"], batch.classifier(keep(batch.images, mask, batch.background)))


def test_weight_zero_is_not_computed():
    batch = batch_for(left_half())
    config = ObjectiveConfig(remove=Remove(weight=0.0))
    assert "removed" not in Objective(config)(batch).logits


def test_schedules():
    points = [[0.2, 1.0], [0.6, 3.0]]
    values = [scheduled(points, at, "t") for at in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert values == pytest.approx([1, 1, 2, 3, 3])
    assert scheduled(2, 0.7, "t") == 2
    impossible = (-1, math.nan, math.inf, [[0, -1]], [[0, math.nan]], [[2, 1]], [[-0.5, 1], [0.5, 1]])
    for bad in ([[0.5, 1], [0.2, 2]], "much", [[1]], [], *impossible):
        with pytest.raises(InputError, match=r"t\.weight="):
            scheduled(bad, 0.0, "t")
    assert [ever_weighs(weight) for weight in (0, 2.0, [[0, 0], [1, 0]], [[0, 1], [0.5, 0]])] == [0, 1, 0, 1]


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match=r"low=0\.5"):
        Area(low=0.5, high=0.2)
    for term in (Ranking, Teacher):
        for temperature in (0, math.nan, math.inf):
            with pytest.raises(InputError, match=f"temperature={temperature}"):
                term(temperature=temperature)
    with pytest.raises(InputError, match=r"objective\.smoothness\.power=0\.5"):
        Smoothness(power=0.5)
    with pytest.raises(InputError, match=r"objective\.keep\.kind='crossentropy' is unknown.*mean cross_entropy"):
        ObjectiveConfig(keep=Keep(kind="crossentropy"))
    with pytest.raises(InputError, match=r"objective\.ranking\.kind='prob' is unknown.*allowed: log, probability"):
        ObjectiveConfig(ranking=Ranking(kind="prob"))


def test_shared_draws_make_a_batch_its_images():
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


# -- the teacher ---------------------------------------------------------------------------------------------------


def taught(scores: Tensor, teacher: Tensor | None) -> MaskedBatch:
    batch = batch_for(torch.ones(len(scores), 1, 8, 8))
    batch.scores, batch.teacher = scores, teacher
    return batch


def places(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_ranks_are_shares_below_with_ties_halved():
    assert ranks(places(0.2, 5.0, 0.2, -1.0)).flatten().tolist() == [0.5, 0.875, 0.5, 0.125]
    assert ranks(torch.full((1, 1, 3, 3), 7.0)).unique().tolist() == [0.5]


def test_teacher_of_two_places():
    # Standardised, scores of 1 and -1 (variance 2) are 2/√3 apart; the one pair has weight 1.
    term = Teacher(temperature=0.5)
    right, wrong = (value(term, taught(places(*s), places(0.1, 0.0))) for s in ((1.0, -1.0), (-1.0, 1.0)))
    assert right == pytest.approx(math.log1p(math.exp(-4 / math.sqrt(3))), rel=1e-5)
    assert wrong == pytest.approx(math.log1p(math.exp(4 / math.sqrt(3))), rel=1e-5)


def test_teacher_of_three_places_weighs_pairs_by_their_ranks():
    # Ranks 1/6, 3/6, 5/6 by 3·3/4: weights 3/4 for neighbours, 3/2 for the ends. A shift by one or two shows the same
    # three pairs. Variance 3 halves the scores 3, 0, 0.
    batch = taught(places(3.0, 0.0, 0.0), places(0.3, 0.2, 0.1))
    neighbours, ends, tied = math.log1p(math.exp(-1.5)), math.log1p(math.exp(-1.5)), math.log(2)
    expected = (0.75 * neighbours + 1.5 * ends + 0.75 * tied) / 3
    assert value(Teacher(pairs=5, temperature=1.0), batch) == pytest.approx(expected, rel=1e-5)


def test_teacher_asks_for_order_only():
    random = torch.Generator().manual_seed(0)
    scores, teacher = torch.randn(2, 1, 4, 4, generator=random), torch.rand(2, 1, 8, 8, generator=random)
    term = Teacher()
    first = term(taught(scores, teacher), {})
    for transformed in (teacher.exp(), 3 * teacher - 5, teacher**9):
        assert torch.equal(term(taught(scores, transformed), {}), first)
    assert torch.allclose(term(taught(scores + 20, teacher), {}), first, rtol=1e-4)
    high = [term(taught(scores * factor, teacher), {}) for factor in (100, 1000)]
    assert torch.allclose(*high, rtol=1e-3)


def test_teacher_moves_the_order_and_not_the_area():
    teacher = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    scores = torch.zeros(3, 1, 4, 4, requires_grad=True)
    term = Teacher(pairs=64)
    term(taught(scores, teacher), {}).sum().backward()
    assert scores.grad is not None
    assert torch.allclose(scores.grad.sum((1, 2, 3)), torch.zeros(3), atol=1e-6)
    for gradient, wanted in zip(scores.grad, teacher, strict=True):
        assert torch.corrcoef(torch.stack([-gradient.flatten(), wanted.flatten()]))[0, 1] > 0.9
    learned = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    adam = torch.optim.Adam([learned], lr=0.1)
    for step in range(150):
        batch = taught(learned, teacher)
        batch.generator = torch.Generator().manual_seed(step)
        adam.zero_grad()
        term(batch, {}).sum().backward()
        adam.step()
    for found, wanted in zip(ranks(learned.detach()), ranks(teacher), strict=True):
        assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.97


def test_a_constant_teacher_teaches_nothing():
    scores = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    constant = torch.stack([torch.zeros(1, 7, 7), torch.full((1, 7, 7), 0.3)])
    found = Teacher()(taught(scores, constant), {})
    found.sum().backward()
    assert found.tolist() == [0, 0]
    assert scores.grad is not None
    assert not scores.grad.any()


def test_ties_are_not_ordered():
    teacher = places(1.0, 0.0, 0.0, 0.0)
    values = [value(Teacher(pairs=50), taught(places(4.0, *low), teacher)) for low in ((0, -1, 1), (1, 0, -1))]
    assert values[0] == pytest.approx(values[1], rel=0.02)  # up to the draws of pairs


def test_teacher_is_left_out_without_its_maps_and_at_weight_zero():
    scores, maps = torch.randn(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    objective = Objective(ObjectiveConfig(teacher=Teacher(weight=[[0, 2], [0.5, 0]])))
    assert objective.uses("teacher")
    assert "teacher" in objective(taught(scores, maps), 0.4).terms
    assert "teacher" not in objective(taught(scores, maps), 0.5).terms
    assert "teacher" not in objective(taught(scores, None), 0.0).terms
    assert not Objective().uses("teacher")


def test_shared_draws_teach_a_batch_as_its_images():
    random = torch.Generator().manual_seed(4)
    scores, maps = torch.randn(3, 1, 4, 4, generator=random), torch.rand(3, 1, 6, 6, generator=random)

    def found(rows: slice) -> Tensor:
        batch = taught(scores[rows], maps[rows])
        batch.shared_draws = True
        return Teacher()(batch, {})

    together = found(slice(None))
    for row in range(3):
        assert torch.allclose(found(slice(row, row + 1)), together[row : row + 1], rtol=1e-5)
