"""Invalid settings, images and targets are refused with one line that says why."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ltx import InputError, finetune
from ltx.finetuning.parameter_copies import Copies
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.finetuning.settings import FinetuneConfig
from tests.support.small_explainers import small_explainer, smooth_images


@pytest.mark.parametrize(
    ("options", "text"),
    [({"steps": -1}, "steps=-1; give 0 or more"), ({"lr": math.nan}, "lr=nan"), ({"seed": 2**64}, "seed=1.*give")],
)
def test_impossible_settings_are_refused_before_any_work(options: dict[str, Any], text: str):
    with pytest.raises(InputError, match=text):
        FinetuneConfig(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": -1}, "steps=-1"),
        ({"targets": [0, 1]}, "2 targets for 1 images"),
        ({"settings": FinetuneSettings(scope="all")}, "shares"),
        ({"settings": FinetuneSettings(lr=1e30), "steps": 1}, "not finite after 1 steps; lower lr"),
        ({"settings": FinetuneSettings(lr=1e30), "steps": 3}, "the loss is not finite at step 1; lower lr"),
        (
            {"settings": FinetuneSettings(lr=1e30, select_by="positive"), "steps": 3},
            "not finite after 1 steps; lower lr",
        ),
        ({"allowed": torch.full((1, 1, 64, 64), 5.0)}, "allowed has values from 5 to 5"),
        ({"allowed": torch.ones(1, 1, 8, 8)}, r"allowed has shape \(1, 1, 8, 8\); give \(1, 1, 64, 64\)"),
        ({"starts": []}, "starts: 0 networks for 1 images"),
    ],
)
def test_invalid_arguments(options: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        finetune(small_explainer(), smooth_images(1), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"select_by": "postive"}, "did you mean positive"),
        ({"lr": math.nan}, "lr=nan; give a positive"),
        ({"lr": math.inf}, "lr=inf; give a positive"),
        ({"seed": 10**20}, "seed=1"),
        ({"max_batch": 0}, "max_batch=0"),
        ({"jitter": -1}, "jitter=-1"),
    ],
)
def test_invalid_settings(options: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        FinetuneSettings(**options)


def test_targets_and_names_are_checked_before_any_work(monkeypatch: pytest.MonkeyPatch):
    explainer, images = small_explainer(), smooth_images()
    monkeypatch.setattr(Copies, "__init__", lambda *_: pytest.fail("an image was adapted"))
    with pytest.raises(InputError, match="target='tabbby' is not a class"):
        finetune(explainer, images, ["0", "predicted", "tabbby"], settings=FinetuneSettings(max_batch=1))
    with pytest.raises(InputError, match=r"target=\[1\] is not a valid class"):
        finetune(explainer, images, [[1], [2], [3]])  # type: ignore[list-item]
    with pytest.raises(InputError, match="2 names for 3 images"):
        finetune(explainer, images, names=["a", "b"], settings=FinetuneSettings(max_batch=1))


def test_no_image_is_an_error():
    explainer = small_explainer()
    for way in (finetune, type(explainer).explain):
        with pytest.raises(InputError, match="the batch is empty"):
            way(explainer, smooth_images(1)[:0])


def test_images_of_another_size_are_refused():
    explainer = small_explainer()
    for way in (finetune, type(explainer).explain):
        with pytest.raises(InputError, match="images of 48x64 pixels; resnet18 takes 64x64"):
            way(explainer, torch.rand(1, 3, 48, 64))


@pytest.mark.parametrize("term", ["teacher", "elsewhere"])
def test_an_objective_with_only_training_terms_is_refused(term: str):
    explainer = small_explainer()
    explainer.training_config = {
        "objective": {name: {"weight": 0.0} for name in ("keep", "remove", "area", "smoothness")}
    }
    explainer.training_config["objective"][term] = {"weight": 1.0}
    with pytest.raises(InputError, match="besides elsewhere, teacher, which finetuning lacks"):
        finetune(explainer, smooth_images(1), 0, steps=1)
    assert len(finetune(explainer, smooth_images(1), 0, steps=0).maps) == 1


def test_an_error_restores_the_training_mode():
    explainer = small_explainer().train()
    for way in (finetune, type(explainer).explain):
        with pytest.raises(InputError, match="target='nosuch'"):
            way(explainer, smooth_images(1), "nosuch")
        assert explainer.training


@pytest.mark.parametrize(("steps", "select_by"), [(0, None), (2, None), (2, "insertion")])
def test_masks_that_are_not_finite_at_once_point_to_the_checkpoint(steps: int, select_by: str | None):
    explainer = small_explainer()
    with torch.no_grad():
        for parameter in explainer.parameters():
            parameter.fill_(1e38)
    with pytest.raises(InputError, match="not finite before the first update; check the checkpoint and the classifier"):
        finetune(explainer, smooth_images(1), steps=steps, settings=FinetuneSettings(select_by=select_by))
