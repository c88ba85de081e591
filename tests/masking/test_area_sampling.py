"""Areas drawn for a step cover the range."""

from __future__ import annotations

import torch

from ltx.masking.area_sampling import AreaSampling


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
