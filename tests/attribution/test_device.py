"""Every attribution method runs on a fake CUDA device: mixing devices raises, synchronisations are counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ltx import Classifier
from ltx.attribution import feature_layers, model_trace
from ltx.attribution.attention import has_attention
from ltx.attribution.attribute import attribute
from ltx.attribution.registry import METHODS
from ltx.attribution.support import refusal
from tests.support.fake_device import FakeCuda, fake_cuda, fake_gradients

FEW: dict[str, dict[str, Any]] = {
    "rise": {"masks": 4},
    "occlusion": {"window": 32, "stride": 32},
    "extremal_perturbation": {"steps": 2},
    "inr": {"steps": 2},
    "integrated_gradients": {"steps": 3},
    "gradient_shap": {"samples": 2},
    "iia": {"steps": 2},
    "iia2": {"steps": 2},
    "iia3": {"steps": 2},
}
WAITS = 3
"""Of every method, once: the range of the images, the target classes, and which maps are constant."""
WAITS_PER_CHUNK = {"integrated_gradients": 3, "inr": 8}
"""Copies that captum makes of each point's factors; the checks of a finetuning run and its explanation."""
WAITS_PER_CHUNK_OF_ATTENTION = {"iia": 3, "iia2": 3, "iia3": 3, "dix2": 2, "dix3": 3}
"""The number of basis vectors of each path: three chunks of points, or two and three blocks."""


@pytest.fixture(scope="module", params=["resnet10t", "test_vit"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    size = 160 if request.param == "test_vit" else 64
    return Classifier(request.param, weights="random", num_classes=5, input_size=size)


def move(device: FakeCuda, classifier: Classifier) -> Classifier:
    """The classifier on the fake device with its trace, which is found from values, once for each model."""
    moved, trace = device.move((classifier, model_trace.model_trace(classifier)))
    model_trace._traces[moved] = (moved.input_size, *moved.model.modules()), trace
    return moved


@pytest.mark.filterwarnings("ignore:.*are constant and do not rank")  # every value is assumed to be equal
@pytest.mark.parametrize("method", METHODS)
def test_methods_stay_on_the_device(method: str, classifier: Classifier) -> None:
    options = FEW.get(method, {})
    if refusal(method, classifier, options):
        pytest.skip("not for this classifier")
    model_trace.model_trace(classifier)
    feature_layers._token_grid(classifier)
    per_chunk = WAITS_PER_CHUNK.get(method, 0)
    if has_attention(classifier):
        per_chunk = WAITS_PER_CHUNK_OF_ATTENTION.get(method, per_chunk)
    for chunks in (1, 2):
        with fake_cuda(assumed=0.5) as device, fake_gradients():
            moved = move(device, classifier)
            images = device.rand(2 * chunks, 3, *classifier.input_size)
            maps = attribute(method, moved, images, device.classes(2 * chunks), max_batch=2, **options)
            assert maps.shape == (2 * chunks, 1, *classifier.input_size)
            assert (maps.device.type, maps.dtype) == ("cuda", torch.float32)
            waits = device.synchronisations
            assert waits.total() == WAITS + chunks * per_chunk, waits
            assert not [place for place in waits if place.endswith("copy to the host")]
