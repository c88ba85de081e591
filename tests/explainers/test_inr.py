"""Masks of every area: exact, nested where asked, smooth in the area, at any resolution, and where the evidence is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ltx import Classifier, InputError, finetune, load
from ltx.attribution.inr import area_objective
from ltx.checkpoints.folder import save_checkpoint
from ltx.explainers.inr import INRExplainer
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.area_sampling import AreaSampling
from ltx.masking.area_threshold import masks_of_area
from ltx.masking.jitter import draw_jitter

AREAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)


class Rectangles(nn.Module):
    """Class 0 has the contrast within some rectangles (top, left, bottom, right) for a logit, class 1 a constant."""

    num_classes = 2

    def __init__(self, *boxes: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.boxes = boxes

    def forward(self, x: Tensor) -> Tensor:
        inside = [
            (x[:, :, top:bottom, left:right] - 0.5).square().sum((1, 2, 3)) for top, left, bottom, right in self.boxes
        ]
        evidence = torch.stack(inside).sum(0) / 6
        return torch.stack([evidence, torch.ones_like(evidence)], 1)


def checkered(count: int, side: int = 32) -> Tensor:
    """Black and white pixels at random: a blur takes their contrast away everywhere alike."""
    return (torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def small(classifier: Classifier, seed: int = 0, **settings: object) -> INRExplainer:
    torch.manual_seed(seed)
    sizes: dict[str, object] = {"trunk": "none", "width": 64, "depth": 3, "points": 32}
    return INRExplainer(classifier, **(sizes | settings)).eval()  # type: ignore[arg-type]


def amortised(**settings: object) -> INRExplainer:
    torch.manual_seed(0)
    classifier = Classifier("resnet18", weights="random", num_classes=5, input_size=64)
    found = ExplainerConfig(name="inr", width=32, depth=3, points=16, **settings).build(classifier)  # type: ignore[arg-type]
    assert isinstance(found, INRExplainer)
    return found.eval()


def pictures(count: int = 3) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    return nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 1)


def iou(mask: Tensor, box: tuple[int, int, int, int]) -> float:
    truth = torch.zeros(mask.shape, dtype=torch.bool)
    truth[..., box[0] : box[2], box[1] : box[3]] = True
    kept = mask > 0.5
    return float((kept & truth).sum() / (kept | truth).sum())


# -- the threshold -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["smooth", "spike", "noise"])
def test_the_area_holds_for_any_scores(shape: str):
    generator = torch.Generator().manual_seed(0)
    scores = {
        "smooth": torch.linspace(-1, 1, 40).view(1, 1, 1, 40).expand(1, 1, 40, 40),
        "spike": torch.zeros(1, 1, 40, 40).index_put((torch.tensor(0),) * 4, torch.tensor(30.0)),
        "noise": torch.randn(1, 1, 40, 40, generator=generator),
    }[shape]
    areas = torch.tensor([AREAS])
    masks = masks_of_area(scores.expand(-1, len(AREAS), -1, -1), areas, 0.05)
    assert torch.allclose(masks.mean((2, 3)), areas, atol=1e-4)
    assert bool((masks.diff(dim=1) >= -1e-4).all()), "the same scores give nested masks"


def test_no_pixel_outside_the_allowed_ones_is_kept():
    allowed = torch.zeros(1, 1, 20, 20)
    allowed[..., :10] = 1
    scores = torch.randn(1, 2, 20, 20, generator=torch.Generator().manual_seed(0))
    masks = masks_of_area(scores, torch.tensor([[0.2, 0.9]]), 0.05, allowed)
    assert torch.allclose(masks.mean((2, 3)), torch.tensor([[0.2, 0.4995]]), atol=1e-4)
    assert not bool((masks * (1 - allowed)).any())


def test_the_gradient_sees_the_threshold_move():
    scores = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    weights = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    areas = torch.tensor([[0.3]], dtype=torch.double)

    def judged(values: Tensor) -> Tensor:
        return (masks_of_area(values, areas, 0.5) * weights).sum()

    scores.requires_grad_()
    (found,) = torch.autograd.grad(judged(scores), scores)
    with torch.no_grad():
        for place in range(16):
            nudge = torch.zeros(16, dtype=torch.double)
            nudge[place] = 1e-2
            nudge = nudge.view(1, 1, 4, 4)
            slope = (judged(scores + nudge) - judged(scores - nudge)) / 2e-2
            assert float(slope) == pytest.approx(float(found.flatten()[place]), abs=1e-3)


# -- the network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"nested": True}, {"variant": "fourier"}])
def test_areas_are_obtained_and_sweeps_are_continuous(settings: dict[str, object]):
    explainer, images = amortised(**settings), pictures()
    by_area = explainer.explain(images, 1).by_area
    assert by_area is not None
    masks = by_area(AREAS)
    assert masks.shape == (3, 9, 64, 64)
    assert torch.allclose(masks.mean((2, 3)), torch.tensor(AREAS).expand(3, -1), atol=1e-3)
    fine = by_area([0.3 + 0.01 * step for step in range(5)])
    change = fine.diff(dim=1)
    assert float(change.abs().mean((2, 3)).max()) < 0.03, "0.01 at least, the area's own change"
    if settings.get("nested"):
        assert bool((masks.diff(dim=1) >= -1e-3).all())
        assert float(change.abs().mean((2, 3)).max()) == pytest.approx(0.01, abs=1e-3)


def test_points_in_parts_equal_all_at_once(monkeypatch: pytest.MonkeyPatch):
    explainer, images = amortised(nested=False), pictures(2)
    areas = torch.tensor([[0.1, 0.4], [0.2, 0.3]])
    with torch.no_grad():
        _, found = explainer.predict_and_encode(images)
        whole = explainer.decode(found, torch.tensor([0, 1]), areas, (20, 30))
        monkeypatch.setattr("ltx.explainers.inr.AT_ONCE", 77)
        parts = explainer.decode(found, torch.tensor([0, 1]), areas, (20, 30))
        assert torch.allclose(whole, parts, atol=1e-5)
        blind = small(explainer.classifier)
        assert (
            blind.decode(blind.predict_and_encode(images)[1], torch.tensor([0, 1]), areas, (20, 30)).shape
            == whole.shape
        )


def test_thresholds_in_parts_equal_all_at_once(monkeypatch: pytest.MonkeyPatch):
    scores = torch.randn(5, 2, 12, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    areas = torch.linspace(0.1, 0.8, 10).view(5, 2)
    allowed = (torch.arange(144).view(1, 1, 12, 12) < 100).float().expand(5, -1, -1, -1)
    seen = {}
    for values in (10**9, 700):  # all; two images, two, one
        monkeypatch.setattr("ltx.masking.area_threshold.CPU_VALUES", values)
        for free in (None, allowed):
            masks = masks_of_area(scores, areas, 0.1, free)
            (gradient,) = torch.autograd.grad(masks[..., :6].sum(), scores)
            seen[values, free is None] = (masks.detach(), gradient)
    for free in (True, False):
        for whole, parts in zip(seen[10**9, free], seen[700, free], strict=True):
            assert torch.equal(whole, parts)


def test_nested_masks_of_another_area_take_no_further_pass_of_the_network(monkeypatch: pytest.MonkeyPatch):
    passes = []
    decode = INRExplainer.decode
    monkeypatch.setattr(INRExplainer, "decode", lambda *a, **k: passes.append(a) or decode(*a, **k))
    for nested, expected in ((True, [1, 1, 2]), (False, [2, 3, 4])):  # explained, the same size, another one
        passes.clear()
        explanation, counts = amortised(nested=nested).explain(pictures(2), 1), []
        counts.append(len(passes))
        for size in (None, (48, 80)):
            explanation.by_area(0.3, size)
            counts.append(len(passes))
        assert counts == expected


def test_any_resolution():
    explainer, images = amortised(), pictures(2)
    by_area = explainer.explain(images, 1).by_area
    assert by_area is not None
    usual, fine = by_area(0.2), by_area(0.2, (96, 160))
    assert fine.shape == (2, 1, 96, 160)
    assert torch.allclose(fine.mean((2, 3)), torch.full((2, 1), 0.2), atol=1e-3)
    smaller = nn.functional.interpolate(fine, (64, 64), mode="area")
    assert float((smaller - usual).abs().mean()) < 0.08, "the same mask, seen more finely"


def test_siren_starts_as_its_paper_says():
    layers = [*small(Classifier(Rectangles(), input_size=32), width=200, depth=5).layers]
    assert [layer.in_features for layer in layers] == [3, 200, 203, 200, 200]
    for layer, bound in zip(layers, [1 / 3, *(math.sqrt(6 / n) / 30 for n in (200, 203, 200, 200))], strict=True):
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound


def test_images_and_classes_matter_to_the_amortised_network_alone():
    explainer, images = amortised(), pictures(2)
    with torch.no_grad():
        first, other = explainer(images, 0), explainer(images, 3)
        assert not torch.allclose(first, other)
        assert not torch.allclose(first[0], first[1])
        blind = small(explainer.classifier)
        assert torch.equal(blind(images, 0), blind(images, 3))
        assert torch.equal(*blind(images, 0))


@pytest.mark.parametrize("variant", ["siren", "fourier"])
def test_the_amortised_network_begins_at_the_evidence_of_the_class(variant: str):
    explainer, images = amortised(nested=True, variant=variant), pictures()
    targets = torch.tensor([0, 3, 1])
    with torch.no_grad():
        _, found = explainer.predict_and_encode(images)
        assert explainer.evidence is not None
        evidence = explainer.evidence(found.final, targets)
        wanted = nn.functional.interpolate(evidence, (16, 16), mode="bilinear").flatten(1)
        scores = explainer.decode(found, targets).flatten(1)
    for row, other in zip(scores, wanted, strict=True):
        assert float(torch.corrcoef(torch.stack([row, other]))[0, 1]) > 0.98


def test_a_checkpoint_comes_back(tmp_path: Path):
    explainer, images = amortised(variant="fourier", nested=True), pictures(2)
    settings = {"name": "inr", "variant": "fourier", "nested": True, "width": 32, "depth": 3, "points": 16}
    save_checkpoint(tmp_path, explainer, {"explainer": settings})
    again = load(tmp_path, explainer.classifier)
    with torch.no_grad():
        assert torch.equal(again(images), explainer(images))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "unet", "nested": True}, r"explainer\.nested=True is for explainer\.name=inr, not unet"),
        ({"name": "unet", "trunk": "none"}, r"only explainer\.name=inr works without image features"),
        ({"name": "inr", "variant": "decoder"}, "allowed: siren, fourier"),
        ({"name": "inr", "depth": 0}, "need width"),
    ],
)
def test_impossible_settings(settings: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        ExplainerConfig(**settings).build(amortised().classifier)  # type: ignore[arg-type]


# -- fitted to images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"nested": True}, {"variant": "fourier"}])
def test_the_mask_of_the_right_area_is_the_rectangle_that_decides(settings: dict[str, object]):
    box = (6, 8, 22, 20)
    explainer = small(Classifier(Rectangles(box), input_size=32), **settings)
    lr = 3e-3 if settings.get("variant") == "fourier" else 1e-3
    found = finetune(
        explainer, checkered(2), 0, steps=150, lr=lr, objective=area_objective("preserve", "logit"), fill="blur"
    )
    masks = found.at(16 * 12 / 32**2).mask
    assert masks is not None
    assert all(iou(mask, box) >= 0.9 for mask in masks)


def test_areas_that_do_not_fit_the_images_are_refused():
    found = amortised().explain(pictures())
    assert found.at(torch.tensor([0.1, 0.2, 0.3])).mask is not None
    with pytest.raises(InputError, match=r"area=\[0\.1, 0\.2\]; give one for all images"):
        found.at([0.1, 0.2])  # type: ignore[arg-type]
    for areas in ([], torch.full((2, 1), 0.1), torch.full((3, 1, 1), 0.1)):
        with pytest.raises(InputError, match=r"areas of shape .* for 3 images"):
            found.by_area(areas)  # type: ignore[misc, arg-type]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("settings", [{}, {"nested": True}])
@pytest.mark.parametrize("trunk", ["none", "shared"])
def test_many_at_once_equal_one_by_one(settings: dict[str, object], trunk: str):
    explainer, images = amortised(trunk=trunk, **settings), pictures()
    options: dict[str, Any] = {"steps": 3, "fill": "blur", "jitter": 4, "areas": AreaSampling(2)}
    together = finetune(explainer, images, [0, 1, 2], **options)
    chunked = finetune(explainer, images, [0, 1, 2], max_batch=2, **options)
    alone = [finetune(explainer, images[index : index + 1], [index], **options) for index in range(3)]
    whole = together.by_area(AREAS)  # type: ignore[misc]
    for other in (chunked.by_area(AREAS), torch.cat([one.by_area(AREAS) for one in alone])):  # type: ignore[misc]
        # A border at a temperature of 0.05 multiplies what rounding does to the scores.
        assert float((other - whole).abs().mean()) < 5e-4
        assert float((other - whole).abs().max()) < 5e-2
    assert float((together.maps - explainer(images, torch.arange(3))).detach().abs().max()) > 0.02


@pytest.mark.usefixtures("both_ways")
def test_random_features_of_several_starts_stay_with_their_start():
    images = checkered(3)
    classifier = Classifier(Rectangles((4, 4, 20, 20)), input_size=32)
    starts = [small(classifier, seed=seed, variant="fourier") for seed in range(3)]
    for max_batch in (16, 1):  # parts of one start, none of them the network's own, differ from it too
        together = finetune(starts[0], images, 0, steps=0, starts=starts, max_batch=max_batch).maps
        for start, image, found in zip(starts, images, together, strict=True):
            alone = finetune(start, image[None], 0, steps=0).maps[0]
            assert torch.allclose(found, alone, atol=1e-5)
    with pytest.raises(InputError, match="one for every area"):
        finetune(starts[0], images, 0, steps=1, select_by="positive")


def test_pixels_that_are_not_allowed_stay_out_of_every_mask():
    explainer, images = amortised(), pictures(2)
    allowed = torch.ones(2, 1, 64, 64)
    allowed[0, :, :, :32] = 0
    found = finetune(explainer, images, 0, steps=2, allowed=allowed)
    masks = found.by_area(AREAS)  # type: ignore[misc]
    assert not bool((masks * (1 - allowed)).any())
    assert torch.allclose(masks.mean((2, 3))[1], torch.tensor(AREAS), atol=1e-3)


# -- searching the areas -------------------------------------------------------------------------------------------


def test_the_smallest_sufficient_area_is_found_without_training():
    """Masks grow from the left; the class needs the columns up to the one that its image says."""
    from ltx.results.masks_by_area import AreaMasks

    class Needs(nn.Module):
        num_classes = 2

        def forward(self, x: Tensor) -> Tensor:
            kept = x[:, 0, 0].mean(1)  # the share of columns that are kept, of a white picture
            evidence = 400 * (kept - x[:, 1, 0, 0])  # the share that is needed, written into the first pixel
            return torch.stack([evidence, -evidence], 1)

    images = torch.ones(3, 3, 2, 100)
    images[:, 1] = torch.tensor([0.13, 0.62, 2.0]).view(3, 1, 1)

    def ask(areas: Tensor, size: tuple[int, int] | None) -> Tensor:
        columns = torch.arange(100) / 100
        return (columns < areas[..., None]).float()[:, :, None].expand(-1, -1, 2, -1)

    whole = torch.ones(3)
    classifier = Classifier(Needs(), input_size=(2, 100))
    found = AreaMasks(classifier, images, torch.zeros_like(images), torch.zeros(3, dtype=torch.long), whole, ask)
    areas, masks, probability = found.smallest_sufficient()
    assert 0.13 <= float(areas[0]) <= 0.15
    assert 0.62 <= float(areas[1]) <= 0.64
    assert math.isnan(float(areas[2]))
    assert torch.allclose(masks[:2].mean((1, 2, 3)), areas[:2], atol=0.011)
    assert bool((probability[:2] >= 0.9).all())
    assert float(probability[2]) < 0.1
    entry = found.entry()
    assert entry[0, 0, 0, [0, 3, 45, 99]].tolist() == pytest.approx([0.02, 0.05, 0.5, 1.0])


def test_areas_of_a_step_cover_the_range():
    drawn = AreaSampling(4, 0.02, 0.8).draw(torch.zeros(50, 1), torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 4)
    edges = [0.02 * 40 ** (part / 4) for part in range(5)]
    for part in range(4):
        assert (
            edges[part] - 1e-6 <= float(drawn[:, part].min()) <= float(drawn[:, part].max()) <= edges[part + 1] + 1e-6
        )
    shared = AreaSampling().draw(torch.zeros(3, 1), torch.Generator().manual_seed(0), shared=True)
    assert torch.equal(shared[0], shared[2])


def test_jitter_moves_whole_pictures():
    assert draw_jitter(0, torch.Generator()) is None
    picture = torch.arange(64.0).view(1, 1, 8, 8)
    seen = set()
    for seed in range(30):
        move = draw_jitter(2, torch.Generator().manual_seed(seed))
        assert move is not None
        moved = move(picture)
        assert moved.shape == picture.shape
        inner = np.sign(float(moved[0, 0, 4, 4] - moved[0, 0, 4, 3]))  # -1 where it is mirrored
        seen.add((inner, float(moved[0, 0, 4, 4])))
    assert {sign for sign, _ in seen} == {-1.0, 1.0}
    assert len(seen) > 10
