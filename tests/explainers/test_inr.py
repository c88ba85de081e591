"""The coordinate network: exact and continuous areas, nesting, initialisation and conditioning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from ltx import Classifier, InputError, load
from ltx.checkpoints.folder import save_checkpoint
from ltx.explainers.inr import INRExplainer
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.area_sampling import SWEEP
from tests.support.coordinate_networks import Rectangles, amortised_inr, fitted_inr
from tests.support.small_explainers import smooth_images


@pytest.mark.parametrize("settings", [{}, {"nested": True}, {"variant": "fourier"}])
def test_areas_are_obtained_and_sweeps_are_continuous(settings: dict[str, object]):
    explainer, images = amortised_inr(**settings), smooth_images()
    by_area = explainer.explain(images, 1).by_area
    assert by_area is not None
    masks = by_area(SWEEP)
    assert masks.shape == (3, 9, 64, 64)
    assert torch.allclose(masks.mean((2, 3)), torch.tensor(SWEEP).expand(3, -1), atol=1e-3)
    fine = by_area([0.3 + 0.01 * step for step in range(5)])
    change = fine.diff(dim=1)
    assert float(change.abs().mean((2, 3)).max()) < 0.03, "0.01 at least, the area's own change"
    if settings.get("nested"):
        assert bool((masks.diff(dim=1) >= -1e-3).all())
        assert float(change.abs().mean((2, 3)).max()) == pytest.approx(0.01, abs=1e-3)


def test_points_in_chunks_equal_those_at_once(monkeypatch: pytest.MonkeyPatch):
    explainer, images = amortised_inr(nested=False), smooth_images(2)
    areas = torch.tensor([[0.1, 0.4], [0.2, 0.3]])
    with torch.no_grad():
        _, found = explainer.predict_and_encode(images)
        whole = explainer.decode(found, torch.tensor([0, 1]), areas, (20, 30))
        monkeypatch.setattr("ltx.explainers.inr.AT_ONCE", 77)
        parts = explainer.decode(found, torch.tensor([0, 1]), areas, (20, 30))
        assert torch.allclose(whole, parts, atol=1e-5)
        blind = fitted_inr(explainer.classifier)
        assert (
            blind.decode(blind.predict_and_encode(images)[1], torch.tensor([0, 1]), areas, (20, 30)).shape
            == whole.shape
        )


def test_nested_masks_of_another_area_need_no_further_pass(monkeypatch: pytest.MonkeyPatch):
    passes = []
    decode = INRExplainer.decode
    monkeypatch.setattr(INRExplainer, "decode", lambda *a, **k: passes.append(a) or decode(*a, **k))
    for nested, expected in ((True, [1, 1, 2]), (False, [2, 3, 4])):  # explained, the same size, another one
        passes.clear()
        explanation, counts = amortised_inr(nested=nested).explain(smooth_images(2), 1), []
        counts.append(len(passes))
        for size in (None, (48, 80)):
            explanation.by_area(0.3, size)
            counts.append(len(passes))
        assert counts == expected


def test_siren_initialisation_is_that_of_the_paper():
    layers = [*fitted_inr(Classifier(Rectangles((0, 0, 8, 8)), input_size=32), width=200, depth=5).layers]
    assert [layer.in_features for layer in layers] == [3, 200, 203, 200, 200]
    for layer, bound in zip(layers, [1 / 3, *(math.sqrt(6 / n) / 30 for n in (200, 203, 200, 200))], strict=True):
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound


def test_only_the_amortised_network_depends_on_image_and_class():
    explainer, images = amortised_inr(), smooth_images(2)
    with torch.no_grad():
        first, other = explainer(images, 0), explainer(images, 3)
        assert not torch.allclose(first, other)
        assert not torch.allclose(first[0], first[1])
        blind = fitted_inr(explainer.classifier)
        assert torch.equal(blind(images, 0), blind(images, 3))
        assert torch.equal(*blind(images, 0))


@pytest.mark.parametrize("variant", ["siren", "fourier"])
def test_the_amortised_network_starts_at_the_evidence_of_the_class(variant: str):
    explainer, images = amortised_inr(nested=True, variant=variant), smooth_images()
    targets = torch.tensor([0, 3, 1])
    with torch.no_grad():
        _, found = explainer.predict_and_encode(images)
        assert explainer.evidence is not None
        evidence = explainer.evidence(found, targets)
        wanted = nn.functional.interpolate(evidence, (16, 16), mode="bilinear").flatten(1)
        scores = explainer.decode(found, targets).flatten(1)
    for row, other in zip(scores, wanted, strict=True):
        assert float(torch.corrcoef(torch.stack([row, other]))[0, 1]) > 0.98


def test_a_checkpoint_restores_the_network(tmp_path: Path):
    explainer, images = amortised_inr(variant="fourier", nested=True), smooth_images(2)
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
def test_invalid_settings(settings: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        ExplainerConfig(**settings).build(amortised_inr().classifier)  # type: ignore[arg-type]
