"""The mask of a score map has the requested area, whatever the scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltx.masking.area_sampling import SWEEP
from ltx.masking.area_threshold import masks_of_area


@pytest.mark.parametrize("shape", ["smooth", "spike", "noise"])
def test_the_area_holds_for_any_scores(shape: str):
    generator = torch.Generator().manual_seed(0)
    scores = {
        "smooth": torch.linspace(-1, 1, 40).view(1, 1, 1, 40).expand(1, 1, 40, 40),
        "spike": torch.zeros(1, 1, 40, 40).index_put((torch.tensor(0),) * 4, torch.tensor(30.0)),
        "noise": torch.randn(1, 1, 40, 40, generator=generator),
    }[shape]
    areas = torch.tensor([SWEEP])
    masks = masks_of_area(scores.expand(-1, len(SWEEP), -1, -1), areas, 0.05)
    assert torch.allclose(masks.mean((2, 3)), areas, atol=1e-4)
    assert bool((masks.diff(dim=1) >= -1e-4).all()), "the same scores give nested masks"


def test_only_allowed_pixels_are_kept():
    allowed = torch.zeros(1, 1, 20, 20)
    allowed[..., :10] = 1
    scores = torch.randn(1, 2, 20, 20, generator=torch.Generator().manual_seed(0))
    masks = masks_of_area(scores, torch.tensor([[0.2, 0.9]]), 0.05, allowed)
    assert torch.allclose(masks.mean((2, 3)), torch.tensor([[0.2, 0.4995]]), atol=1e-4)
    assert not bool((masks * (1 - allowed)).any())


def test_the_gradient_includes_the_change_of_the_threshold():
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


def test_thresholds_in_chunks_equal_those_at_once(monkeypatch: pytest.MonkeyPatch):
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
