"""An exported graph next to eager PyTorch: how far the answers differ, and how fast both are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ltx.data.finding import find_images
from ltx.data.image_batches import ImageBatches
from ltx.explainers.mask_network import MaskNetwork
from ltx.export.exporting import Run
from ltx.export.graph import ExplainerGraph
from ltx.runtime.errors import InputError

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int16": 1e-2}
"""Largest accepted difference of masks and probabilities, and of logits relative to the largest logit."""

REPETITIONS = 10


class DifferentAnswersError(InputError):
    """An exported graph does not answer as PyTorch does."""


@dataclass(frozen=True)
class Comparison:
    """An exported graph next to eager PyTorch on the same photographs.

    Attributes:
        mask: largest difference of the masks.
        probability: largest difference of the probabilities.
        logits: largest difference of the logits, divided by the largest logit.
        exported_ms: median milliseconds for one image.
        eager_ms: the same for eager PyTorch.
    """

    mask: float
    probability: float
    logits: float
    exported_ms: float
    eager_ms: float

    @property
    def largest(self) -> float:
        return max(self.mask, self.probability, self.logits)

    def check(self, weights: str) -> None:
        """Refuse a graph that answers differently.

        Raises:
            DifferentAnswersError: a difference above `TOLERANCE`, or one that is not a number.
        """
        if not self.largest <= TOLERANCE[weights]:
            fix = "" if weights == "fp32" else "; use weights=int16 or fp32"
            raise DifferentAnswersError(
                f"the exported graph differs from PyTorch by {self.largest:.1e}, above {TOLERANCE[weights]:g}{fix}"
            )


def photographs(explainer: MaskNetwork, count: int = 5) -> Tensor:
    """Images `[count, C, H, W]` in whole multiples of 1 / 255, as both kinds of graph take them.

    Photographs of scikit-image; noise for a classifier of more channels than photographs have.
    """
    classifier = explainer.classifier
    if classifier.channels > 4:
        noise = torch.rand(classifier.blank(count).shape, generator=torch.Generator().manual_seed(0))
        return noise.mul(255).round() / 255
    files = find_images("scikit-image")[:count]
    batches = ImageBatches(files, classifier.input_size, count, channels=classifier.channels)
    return next(images for _, images in batches).mul(255).round() / 255


@torch.no_grad()
def eager(explainer: MaskNetwork, images: Tensor, targets: Tensor, area: float = 0.2) -> tuple[Tensor, Tensor]:
    """Logits and masks of `explainer` itself; see `ExplainerGraph` for the inputs."""
    logits, features = explainer.predict_and_encode(images)
    targets = torch.where(targets < 0, logits.argmax(1), targets)
    if not explainer.takes_areas:
        return logits, explainer.upsample(explainer.decode(features, targets))
    areas = torch.full((len(images), 1), area)
    return logits, explainer.masks(explainer.decode(features, targets, areas), areas)


def compare(run: Run, graph: ExplainerGraph, reference: MaskNetwork) -> Comparison:
    """Run both on batches of 1 and 5 photographs, for predicted and for other classes, and time one image in turns.

    Args:
        run: the exported graph.
        graph: what was exported.
        reference: the explainer as it was loaded, in eager PyTorch.

    Raises:
        InputError: the explainer's own answers are not finite.
    """
    images = photographs(reference)
    classes = reference.classifier.num_classes
    differences = []
    for part, targets in (
        (images[:1], torch.tensor([-1])),
        (images, torch.tensor([-1, 0, classes // 2, classes - 1, -1])),
    ):
        logits, mask = run(*graph.arguments(part, targets))
        expected, expected_mask = eager(reference, part, targets)
        if not bool(expected_mask.isfinite().all() & expected.isfinite().all()):
            raise InputError(
                "the explainer's own masks or logits of photographs are not finite; check the checkpoint and the "
                "classifier's weights"
            )
        probabilities = [reference.classifier.probabilities(values) for values in (logits, expected)]
        differences.append(
            (
                _largest(mask - expected_mask),
                _largest(probabilities[0] - probabilities[1]),
                _largest(logits - expected) / max(1.0, _largest(expected)),
            )
        )
    one, target = images[:1], torch.tensor([-1])
    arguments = graph.arguments(one, target)
    times = _in_turns(lambda: run(*arguments), lambda: eager(reference, one, target))
    mask_difference, probability, relative = (max(values) for values in zip(*differences, strict=True))
    return Comparison(mask_difference, probability, relative, *times)


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())


def _in_turns(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPETITIONS + 2):
        for work, taken in zip((first, second), times, strict=True):
            begun = time.perf_counter()
            work()
            taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times[0][2:]), statistics.median(times[1][2:])
