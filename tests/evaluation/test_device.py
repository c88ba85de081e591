"""Chunks of an evaluation are moved to a fake CUDA device as a whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ltx.evaluation.computation import as_batch
from ltx.evaluation.plan import build
from tests.support.fake_device import fake_cuda
from tests.support.small_evaluations import settings


@pytest.mark.parametrize("target", ["predicted", "label", "1"])
def test_a_chunk_with_masks_is_moved_to_the_device(place: Path, tmp_path: Path, target: str) -> None:
    config = settings(place, tmp_path, methods=["random"], protocol="localisation", masks=str(place / "masks"))
    evaluation = build(replace(config, target=target))
    loaded = evaluation.samples.load(0)
    with fake_cuda() as device:
        classifier = device.move(evaluation.classifier)
        on_host = replace(
            loaded,
            images=torch.empty(loaded.images.shape),
            objects=torch.empty(loaded.objects.shape, dtype=torch.bool),
            near_objects=torch.empty(loaded.near_objects.shape, dtype=torch.bool),
        )
        batch = as_batch(replace(evaluation, classifier=classifier), on_host)
        tensors = [batch.images, batch.targets, *batch.unmasked, batch.objects, batch.near_objects]
        assert {tensor.device.type for tensor in tensors} == {"cuda"}
        assert not [place for place in device.synchronisations if "read on the host" in place]
