"""Per-image finetuning: determinism, defaults, and what the explanation reports."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ltx import InputError, finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.objectives.area import Area
from ltx.objectives.keep import Keep
from ltx.objectives.masked_batch import MaskedBatch
from ltx.objectives.objective import Objective
from ltx.objectives.ranking import Ranking
from ltx.objectives.remove import Remove
from ltx.objectives.settings import ObjectiveConfig
from tests.support.small_explainers import small_explainer, smooth_images


def test_zero_steps_is_the_forward_pass_and_the_explainer_does_not_change():
    explainer, images = small_explainer(), smooth_images()
    before = {key: value.clone() for key, value in explainer.state_dict().items()}
    assert torch.allclose(finetune(explainer, images, steps=0).maps, explainer(images), atol=1e-5)
    finetune(explainer, images, steps=2)
    assert all(torch.equal(value, before[key]) for key, value in explainer.state_dict().items())
    assert all(parameter.grad is None for parameter in explainer.parameters())


def test_the_same_seed_gives_the_same_bytes():
    explainer, images = small_explainer(), smooth_images()
    first, second = (
        finetune(explainer, images, steps=2, settings=FinetuneSettings(fill="random", seed=3)).maps for _ in range(2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(
        first, finetune(explainer, images, steps=2, settings=FinetuneSettings(fill="noise", seed=4)).maps
    )


def test_steps_lower_the_loss():
    explainer, images = small_explainer(), smooth_images()
    before, after = (
        finetune(explainer, images, 0, steps=steps, settings=FinetuneSettings(lr=1e-3)) for steps in (0, 15)
    )

    def loss(found) -> torch.Tensor:
        kept, removed = found.probability_kept, found.probability_removed
        return -kept.log() - (1 - removed).log() + 4 * found.maps.mean((1, 2, 3))

    assert bool((loss(after) < loss(before)).all())


def test_masks_of_a_vision_transformer_have_detail_within_its_patches():
    """Between the centres of two patches, a mask of one value per patch is linear, and one with detail is not."""
    explainer, images = small_explainer("vit_tiny_patch16_224"), smooth_images(2)
    patches, fine = (
        finetune(explainer, images, [0, 1], 3, FinetuneSettings(lr=1e-2, detail=detail)).maps
        for detail in (False, True)
    )
    curvature = [maps[..., 8:24].diff(n=2).abs().amax() for maps in (patches, fine)]
    assert curvature[0] < 1e-5
    assert curvature[1] > 1e-3


def test_starts_of_a_vision_transformer_have_detail_too():
    explainer, images = small_explainer("vit_tiny_patch16_224"), smooth_images(1)
    alone = finetune(explainer, images, [0], 2).maps
    assert torch.equal(finetune(explainer, images, [0], 2, starts=[explainer]).maps, alone)


def test_alternating_terms_classify_half_of_the_masked_images():
    explainer, images = small_explainer(), smooth_images(2)
    objective = Objective(ObjectiveConfig(ranking=Ranking(weight=4.0)))
    classified: list[int] = []
    explainer.classifier.model.register_forward_hook(lambda module, args, out: classified.append(len(out)))
    counts, maps = [], []
    for alternate in (False, True):
        classified.clear()
        settings = FinetuneSettings(objective=objective, alternate=alternate)
        maps.append(finetune(explainer, images, 0, 4, settings).maps)
        counts.append(sum(classified))
    assert counts == [4 * 4 * 2, 4 * 2 * 2]
    assert not torch.equal(*maps)


@pytest.mark.parametrize(("steps", "equal"), [(1, True), (2, False)])
def test_the_second_step_has_the_terms_of_the_order(steps: int, equal: bool):
    explainer, images = small_explainer(), smooth_images(2)
    whole = Objective(ObjectiveConfig(ranking=Ranking(weight=4.0)))
    alternating, of_the_mask = (
        finetune(explainer, images, 0, steps, settings).maps
        for settings in (
            FinetuneSettings(objective=whole, alternate=True),
            FinetuneSettings(objective=whole.turns()[0]),
        )
    )
    assert torch.equal(alternating, of_the_mask) == equal


def test_keep_replaces_the_kind_of_the_trained_keep_term():
    explainer, images = small_explainer(), smooth_images(2)
    objective = Objective(ObjectiveConfig(keep=Keep(kind="kl")))
    settings = (FinetuneSettings(keep="kl"), FinetuneSettings(objective=objective), FinetuneSettings())
    chosen, explicit, plain = (finetune(explainer, images, 0, 3, each).maps for each in settings)
    assert torch.equal(chosen, explicit)
    assert not torch.equal(chosen, plain)
    with pytest.raises(InputError, match=r"keep='kk' is unknown; allowed: cross_entropy"):
        FinetuneSettings(keep="kk")
    with pytest.raises(InputError, match=r"set it in objective= instead"):
        FinetuneSettings(keep="kl", objective=objective)


def test_explain_takes_the_same_fills_as_finetune():
    explainer, images = small_explainer(), smooth_images(2)
    found = explainer.explain(images, 0, fill=["blur", "black"])
    assert found.fill == "blur"
    assert torch.equal(found.probability_kept, explainer.explain(images, 0, fill="blur").probability_kept)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_without_gradients_and_in_inference_mode(mode: Any):
    explainer, images = small_explainer(), smooth_images(2)
    expected = finetune(explainer, images, 0, steps=2).maps
    with mode():
        assert torch.equal(finetune(explainer, images.clone(), 0, steps=2).maps, expected)


def test_max_batch_bounds_every_pass(monkeypatch: pytest.MonkeyPatch):
    explainer, rows = small_explainer(), []
    explainer.classifier.model.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    assert (
        finetune(explainer, smooth_images(3), 0, steps=0, settings=FinetuneSettings(max_batch=1)).probability_kept
        is not None
    )
    assert set(rows) == {1}


def test_the_first_of_several_fills_is_reported():
    explainer, images = small_explainer(), smooth_images(2)
    for fill, first in ((["black", "blur"], "black"), (["blur", "black"], "blur"), ("random", "black")):
        several = finetune(explainer, images, 0, steps=0, settings=FinetuneSettings(fill=fill))  # type: ignore[arg-type]
        one = finetune(explainer, images, 0, steps=0, settings=FinetuneSettings(fill=first))
        assert several.fill == one.fill == first
        assert several.probability_kept is not None
        assert one.probability_kept is not None
        assert torch.equal(several.probability_kept, one.probability_kept)


@pytest.mark.parametrize("kind", [torch.bool, torch.float64])
def test_only_allowed_pixels_are_kept_for_any_dtype(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    explainer, images = small_explainer(), smooth_images(2)
    half = torch.zeros(2, 1, 64, 64)
    half[..., :32] = 1
    shown: list[torch.Tensor] = []
    masks = Ranking.masks

    def seen(self: Ranking, batch: MaskedBatch) -> dict[str, torch.Tensor]:
        found = masks(self, batch)
        shown.extend(mask for name, mask in found.items() if "kept" in name)
        return found

    monkeypatch.setattr(Ranking, "masks", seen)
    objective = Objective(ObjectiveConfig(ranking=Ranking(weight=1.0, low=0.2, high=0.4)))
    found = finetune(
        explainer, images, 0, steps=2, allowed=half.to(kind), settings=FinetuneSettings(objective=objective)
    )
    for mask in (found.maps, *shown):
        assert float(mask[..., 32:].detach().abs().max()) == 0
    for mask in shown:  # the area is that of the visible image, but for the border that enlarging smooths
        assert 0.15 < float(mask.detach().mean()) < 0.45


def test_the_default_objective_is_that_of_training():
    explainer, images = small_explainer(), smooth_images(1)
    explainer.training_config = {"objective": {"area": {"weight": 30.0}, "remove": {"weight": 0.0}}}
    inherited = finetune(explainer, images, 0, steps=4, settings=FinetuneSettings(lr=1e-3)).maps
    config = ObjectiveConfig(remove=Remove(weight=0.0), area=Area(weight=30.0))
    assert torch.equal(
        inherited,
        finetune(explainer, images, 0, steps=4, settings=FinetuneSettings(lr=1e-3, objective=Objective(config))).maps,
    )
    explainer.training_config = {}
    assert not torch.equal(inherited, finetune(explainer, images, 0, steps=4, settings=FinetuneSettings(lr=1e-3)).maps)
