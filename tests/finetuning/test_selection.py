"""The papers' rule selects the best step and is reported."""

from __future__ import annotations

import pytest
import torch

from ltx import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.finetuning.selection import FRACTIONS
from ltx.metrics.perturbation import curves
from tests.support.small_explainers import small_explainer, smooth_images


@pytest.mark.parametrize("rule", ["positive", "negative", "deletion", "insertion"])
def test_selection_keeps_the_best_mask_before_each_step_and_says_so(rule: str):
    explainer, images = small_explainer(), smooth_images(2)

    def scores(masks: torch.Tensor) -> torch.Tensor:
        highest = rule in ("positive", "deletion")
        order = "highest" if highest else "lowest"
        targets = torch.zeros(2, dtype=torch.long)
        found = curves(explainer.classifier, images, masks, targets, FRACTIONS, torch.zeros_like(images), (order,))
        heights = found[order].correct.float() if rule in ("positive", "negative") else found[order].probability
        area = torch.trapezoid(heights, dx=0.1, dim=1)
        return -area if highest else area

    chosen = finetune(explainer, images, 0, steps=4, settings=FinetuneSettings(lr=1e-3, select_by=rule))
    each = torch.stack(
        [scores(finetune(explainer, images, 0, steps=s, settings=FinetuneSettings(lr=1e-3)).maps) for s in range(4)]
    )
    assert chosen.selected_by == rule
    assert torch.allclose(scores(chosen.maps), each.max(0).values, atol=1e-4)


def test_the_mask_after_the_last_step_is_not_considered():
    """As in the released code: after one step with selection, the mask is the unadapted one."""
    explainer, images = small_explainer(), smooth_images(2)
    selected = finetune(explainer, images, 0, steps=1, settings=FinetuneSettings(lr=1e-2, select_by="insertion"))
    assert torch.allclose(selected.maps, finetune(explainer, images, 0, steps=0).maps, atol=1e-6)


def test_zero_steps_select_nothing():
    assert (
        finetune(
            small_explainer(), smooth_images(1), 0, steps=0, settings=FinetuneSettings(select_by="positive")
        ).selected_by
        is None
    )
