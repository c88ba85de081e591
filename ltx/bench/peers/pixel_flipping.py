"""The perturbation curves of the `ltx` protocol, next to PixelFlipping of Quantus."""

from __future__ import annotations

from ltx.bench.evaluate import in_fp32, quantus_curves, quantus_steps, run_suite
from ltx.bench.peers.pair import Inputs, Pair
from ltx.evaluation.controls import random_map
from ltx.metrics.perturbation import default_max_batch, predict
from ltx.metrics.protocol import Batch


def pixel_flipping(inputs: Inputs) -> Pair:
    """All metrics of the `ltx` protocol, next to the four curves of Quantus that POS, NEG, DEL and INS need."""
    classifier, images, targets = inputs.classifier, inputs.images, inputs.targets
    names, rows = [f"{index}.png" for index in range(len(images))], default_max_batch(inputs.device)
    maps = random_map(
        classifier, images, targets, Batch(names, images, targets, predict(classifier, images, targets, rows))
    )

    def run_theirs() -> None:
        with in_fp32(classifier):
            for hard in (False, True):
                quantus_curves(classifier, images, maps, targets, hard)

    def run_ours() -> None:
        run_suite(classifier, names, images, maps, targets, rows)

    steps = quantus_steps(maps[0].numel())
    return Pair(
        run_ours,
        run_theirs,
        f"ours: eight metrics from 20 forward passes per image; theirs: 4 curves of {steps} steps in fp32",
    )
