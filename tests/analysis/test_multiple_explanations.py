"""Several explanations of one image, and how much they depend on the start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ltx import Classifier, InputError, finetune
from ltx.analysis.multiple_explanations import MultipleExplanations, SearchSettings, multiple_explanations
from ltx.analysis.seed_agreement import stability
from ltx.attribution.inr import area_objective
from ltx.explainers.inr import INRExplainer
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.masking.area_sampling import AreaSampling
from ltx.masking.area_threshold import masks_of_area
from ltx.masking.fill import gaussian_blur
from ltx.results.building import Provenance, build_explanation
from ltx.results.explanation import Explanation


class Either(nn.Module):
    """Class 0 if the contrast within one of two rectangles is there, whichever."""

    num_classes = 2
    boxes = ((4, 3, 16, 13), (17, 18, 29, 28))

    def forward(self, x: Tensor) -> Tensor:
        contrast = (x - 0.5).square().mean(1) * 4
        inside = [contrast[:, a:c, b:d].mean((1, 2)) for a, b, c, d in self.boxes]
        evidence = (16 * torch.stack(inside)).logsumexp(0) - 12
        return torch.stack([evidence, -evidence], 1)


@pytest.fixture
def either() -> Classifier:
    return Classifier(Either(), input_size=32)


def network(classifier: Classifier, seed: int = 0) -> INRExplainer:
    torch.manual_seed(seed)
    return INRExplainer(classifier, trunk="none", nested=True, width=64, depth=3, points=32).eval()


def checkered(count: int) -> Tensor:
    return (torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5).float()


SETTINGS = FinetuneSettings(
    lr=1e-3, objective=area_objective("preserve", "logit"), fill="blur", areas=AreaSampling(3, 0.05, 0.5)
)


def test_two_rectangles_give_two_masks(either: Classifier):
    images = checkered(2)
    # Where neither decides: no contrast in the second rectangle of the second image, hence one explanation only.
    a, b, c, d = Either.boxes[1]
    images[1, :, a:c, b:d] = 0.5

    def fit(seen: Tensor, targets: Tensor, allowed: Tensor) -> Explanation:
        return finetune(network(either), seen, targets, 80, SETTINGS, allowed=allowed)

    targets = torch.zeros(2, dtype=torch.long)
    found = multiple_explanations(
        fit(images, targets, torch.ones(2, 1, 32, 32)), fit, SearchSettings(most=4, largest=0.3)
    )
    assert found.count.tolist() == [2, 1]
    assert float((found.masks >= 0.5).sum(1).max()) == 1, "no pixel is in two"
    chosen = []
    for k in range(2):
        kept = found.masks[0, k] >= 0.5
        inside = [float(kept[a:c, b:d].sum() / kept.sum()) for a, b, c, d in Either.boxes]
        chosen.append(inside.index(max(inside)))
        assert max(inside) > 0.7
    assert sorted(chosen) == [0, 1]
    assert bool((found.carried[0, :2] >= 0.9).all())
    assert float(found.remaining[0]) < 0.5
    assert bool(found.areas[1, 1:].isnan().all())
    assert not bool(found.masks[1, 1:].any())


def test_a_map_of_both_rectangles_gives_one_at_a_time(either: Classifier):
    """Scores that say both alike: the smallest sufficient mask is one of them, once masks may gather."""
    images, targets = checkered(1), torch.zeros(1, dtype=torch.long)
    inside = torch.zeros(1, 1, 32, 32)
    for a, b, c, d in Either.boxes:
        inside[..., a:c, b:d] = 1
    scores = gaussian_blur(inside, 1.5)

    def fit(seen: Tensor, asked: Tensor, allowed: Tensor) -> Explanation:
        def ask(areas: Tensor, size: tuple[int, int] | None) -> Tensor:
            return masks_of_area(scores.expand(-1, areas.shape[1], -1, -1), areas, 0.05, allowed)

        explanation = build_explanation(either, seen, scores, asked, either(seen), Provenance("both", "blur"), ask)
        assert explanation.by_area is not None
        return explanation

    first = fit(images, targets, torch.ones(1, 1, 32, 32))

    def shares(found: MultipleExplanations) -> list[list[float]]:
        kept = found.masks[0, : int(found.count[0])] >= 0.5
        return [[float(mask[a:c, b:d].sum() / mask.sum()) for a, b, c, d in Either.boxes] for mask in kept]

    spanning = shares(multiple_explanations(first, fit, SearchSettings(share=0.8, reaches=())))
    assert max(spanning[0]) < 0.6
    apart = shares(multiple_explanations(first, fit, SearchSettings(share=0.8, reaches=(0.5,))))
    assert len(apart) == 2
    assert min(max(inside) for inside in apart) > 0.85
    assert apart[0].index(max(apart[0])) != apart[1].index(max(apart[1]))


def test_an_explanation_without_areas_is_refused(either: Classifier):
    one = torch.zeros(1, 1, 32, 32)
    plain = Explanation(torch.zeros(1, 3, 32, 32), one, torch.zeros(1), ["x"], torch.ones(1), "ltx")
    with pytest.raises(InputError, match="an explanation by area"):
        multiple_explanations(plain, lambda *_: plain)
    with pytest.raises(InputError, match="has no masks of a given area"):
        plain.at(0.1)


def test_no_pass_is_larger_than_asked_for(either: Classifier, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ltx.results.masks_by_area.CPU_ROWS", 1000)  # what bounds a CPU's passes anyway
    first = finetune(network(either), checkered(3), 0, 1, replace(SETTINGS, max_batch=2))
    passes: list[int] = []
    either.model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    multiple_explanations(first, lambda *_: first, SearchSettings(most=1))
    assert max(passes) == 2


def test_stability_takes_what_finetuning_takes(either: Classifier, monkeypatch: pytest.MonkeyPatch):
    for place in ("ltx.results.masks_by_area", "ltx.objectives.masked_batch"):
        monkeypatch.setattr(f"{place}.CPU_ROWS", 1)
    starts, images = [network(either), network(either, 1)], checkered(3)
    seen: list[Tensor] = []
    either.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = stability(starts, images, steps=1, settings=replace(SETTINGS, max_batch=2))
    again = stability(starts, images.double(), steps=1, settings=replace(SETTINGS, max_batch=2))
    assert torch.equal(found.masks, again.masks)
    assert max(map(len, seen)) == 2
    assert {pixels.dtype for pixels in seen} == {torch.float32}


def test_stability_keeps_out_of_what_is_forbidden(either: Classifier):
    allowed = torch.ones(3, 1, 32, 32)
    allowed[0, ..., :16], allowed[1, ..., 16:] = 0, 0
    starts = [network(either), network(either, 1)]
    masks = stability(starts, checkered(3), steps=1, settings=SETTINGS, allowed=allowed).masks
    assert float((masks * (1 - allowed[None, :])).abs().max()) == 0
    assert float(masks.mean()) > 0.02


def test_equal_starts_agree_and_others_are_compared(either: Classifier):
    images = checkered(2)
    same = stability([network(either), network(either)], images, 0, steps=2, settings=SETTINGS)
    # Two areas asked for, each its own mask: the agreement of equal masks is 1 and their spread 0.
    assert torch.allclose(same.agreement, torch.ones(2, 3), atol=0.02)
    assert float(same.spread.mean()) < 1e-3
    other = stability([network(either, seed) for seed in range(3)], images, 0, steps=2, settings=SETTINGS)
    assert other.masks.shape == (3, 2, 3, 32, 32)
    assert torch.allclose(other.consensus, other.masks.mean(0))
    kept = other.masks >= 0.5
    pairs = [(0, 1), (0, 2), (1, 2)]
    by_hand = sum(float((kept[i] & kept[j])[1, 2].sum() / (kept[i] | kept[j])[1, 2].sum()) for i, j in pairs) / 3
    assert float(other.agreement[1, 2]) == pytest.approx(by_hand, abs=1e-6)
    assert float(other.agreement.max()) < 0.9
    # Each seed's masks are what it gives alone.
    alone = finetune(network(either, 2), images, 0, 2, SETTINGS).by_area
    assert alone is not None
    assert float((alone((0.05, 0.1, 0.2)) - other.masks[2]).abs().mean()) < 1e-3
    with pytest.raises(InputError, match="two or more networks"):
        stability([network(either)], images)
