"""Jitter flips and shifts all masked images alike."""

from __future__ import annotations

import numpy as np
import torch

from ltx.masking.jitter import draw_jitter


def test_jitter_flips_and_shifts_images():
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
