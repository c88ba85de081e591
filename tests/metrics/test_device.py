"""Every metric runs on a fake CUDA device: mixing devices raises, synchronisations are limited.

SIC and AIC are left out: they reconstruct and compress images on the CPU, which needs values.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltx import Classifier
from ltx.metrics.perturbation import Prediction
from ltx.metrics.protocol import Batch, Settings, update
from ltx.metrics.registry import PROTOCOLS
from tests.support.fake_device import FakeCuda, fake_cuda

SIZE = 32
CHECKS = {"sensitivity": 6, "stability": 3}
"""Reads on the host: one check of NaN for each batch of maps."""


@pytest.fixture(scope="module")
def classifiers() -> tuple[Classifier, Classifier]:
    torch.manual_seed(0)
    sizes = (SIZE, 48)
    first, second = (Classifier("resnet10t", weights="random", num_classes=5, input_size=size) for size in sizes)
    return first, second


def batch_on(device: FakeCuda, count: int = 2) -> Batch:
    """A batch that has everything that a protocol reads."""
    objects = device.rand(count, 1, SIZE, SIZE) > 0.5
    return Batch(
        names=[f"{index}.png" for index in range(count)],
        images=device.rand(count, 3, SIZE, SIZE),
        targets=device.classes(count),
        unmasked=Prediction(device.rand(count), device.rand(count) > 0.5),
        objects=objects,
        near_objects=objects,
        cells=device.classes(count),
    )


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "information"])
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_metrics_stay_on_the_device(classifiers: tuple[Classifier, Classifier], name: str, head: str) -> None:
    def explain(classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
        assert classifier.device.type == images.device.type == targets.device.type == "cuda"
        return torch.rand_like(images[:, :1])

    with fake_cuda(assumed=1.0) as device:
        classifier, second = device.move(classifiers)
        classifier.head = head  # type: ignore[assignment]
        settings = Settings(max_batch=5, fills=["black", "mean", "blur", "noise"], second=second)
        protocol, batch = PROTOCOLS[name](settings), batch_on(device)
        measured = protocol.measure(
            classifier, batch, device.rand(2, 1, SIZE, SIZE), protocol.prepare(classifier, batch), explain
        )
        for metric in protocol.metrics():
            update(metric.to(batch.images.device), measured)
            rows = metric.all_rows()
            assert rows.shape == (2, metric.columns)
            assert rows.device.type == "cuda"
            assert metric.scores(rows).shape == (2,)
        reads = {place: n for place, n in device.synchronisations.items() if not place.endswith("copy to the GPU")}
        assert sum(reads.values()) <= 2 * CHECKS.get(name, 4), reads
