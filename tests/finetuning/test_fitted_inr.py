"""Coordinate networks fitted to images: what they find, and how batches and starts are kept apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltx import Classifier, InputError, finetune
from ltx.attribution.inr import area_objective
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.masking.area_sampling import SWEEP, AreaSampling
from tests.support.coordinate_networks import Rectangles, amortised_inr, checkered_images, fitted_inr
from tests.support.small_explainers import smooth_images


def iou(mask: Tensor, box: tuple[int, int, int, int]) -> float:
    truth = torch.zeros(mask.shape, dtype=torch.bool)
    truth[..., box[0] : box[2], box[1] : box[3]] = True
    kept = mask > 0.5
    return float((kept & truth).sum() / (kept | truth).sum())


@pytest.mark.parametrize("settings", [{"nested": True}, {"variant": "fourier"}])
def test_the_fitted_mask_is_the_rectangle_that_decides(settings: dict[str, object]):
    box = (6, 8, 22, 20)
    explainer = fitted_inr(Classifier(Rectangles(box), input_size=32), **settings)
    lr = 3e-3 if settings.get("variant") == "fourier" else 1e-3
    found = finetune(
        explainer,
        checkered_images(2),
        0,
        steps=150,
        settings=FinetuneSettings(lr=lr, objective=area_objective("preserve", "logit"), fill="blur"),
    )
    masks = found.at(16 * 12 / 32**2).mask
    assert masks is not None
    assert all(iou(mask, box) >= 0.9 for mask in masks)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("settings", [{}, {"nested": True}])
@pytest.mark.parametrize("trunk", ["none", "shared"])
def test_many_at_once_equal_one_by_one(settings: dict[str, object], trunk: str):
    explainer, images = amortised_inr(trunk=trunk, **settings), smooth_images()
    options = FinetuneSettings(fill="blur", jitter=4, areas=AreaSampling(2))
    together = finetune(explainer, images, [0, 1, 2], 3, options)
    chunked = finetune(explainer, images, [0, 1, 2], 3, replace(options, max_batch=2))
    alone = [finetune(explainer, images[index : index + 1], [index], 3, options) for index in range(3)]
    whole = together.by_area(SWEEP)  # type: ignore[misc]
    for other in (chunked.by_area(SWEEP), torch.cat([one.by_area(SWEEP) for one in alone])):  # type: ignore[misc]
        # A border at a temperature of 0.05 multiplies what rounding does to the scores.
        assert float((other - whole).abs().mean()) < 5e-4
        assert float((other - whole).abs().max()) < 5e-2
    assert float((together.maps - explainer(images, torch.arange(3))).detach().abs().max()) > 0.02


@pytest.mark.usefixtures("both_ways")
def test_each_start_keeps_its_random_features():
    images = checkered_images(3)
    classifier = Classifier(Rectangles((4, 4, 20, 20)), input_size=32)
    starts = [fitted_inr(classifier, seed=seed, variant="fourier") for seed in range(3)]
    for max_batch in (16, 1):  # parts of one start, none of them the network's own, differ from it too
        together = finetune(
            starts[0], images, 0, steps=0, starts=starts, settings=FinetuneSettings(max_batch=max_batch)
        ).maps
        for start, image, found in zip(starts, images, together, strict=True):
            alone = finetune(start, image[None], 0, steps=0).maps[0]
            assert torch.allclose(found, alone, atol=1e-5)
    with pytest.raises(InputError, match="one for every area"):
        finetune(starts[0], images, 0, steps=1, settings=FinetuneSettings(select_by="positive"))


def test_masks_keep_allowed_pixels_only():
    explainer, images = amortised_inr(), smooth_images(2)
    allowed = torch.ones(2, 1, 64, 64)
    allowed[0, :, :, :32] = 0
    found = finetune(explainer, images, 0, steps=2, allowed=allowed)
    masks = found.by_area(SWEEP)  # type: ignore[misc]
    assert not bool((masks * (1 - allowed)).any())
    assert torch.allclose(masks.mean((2, 3))[1], torch.tensor(SWEEP), atol=1e-3)
