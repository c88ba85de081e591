"""Batched IIA2 (`variant=released`) next to the double loop of full passes over one image at a time."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.attribution.attention import attention_layers, captured, readout, unfused
from ltx.attribution.attribute import attribute
from ltx.bench.settings import AttributeBench
from ltx.bench.timing import median_ratio, medians, take_turns
from ltx.classifier.classifier import Classifier
from ltx.classifier.settings import ClassifierConfig
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError


@dataclass
class Passes:
    """Images in forward passes of the first blocks, of the head, and in backward passes to the first blocks."""

    forward: int = 0
    tail: int = 0
    backward: int = 0


def naive_iia2(classifier: Classifier, images: Tensor, targets: Tensor, steps: int) -> Tensor:
    """IIA2 by definition, `(n + 1)²` full forward and backward passes for one image at a time; maps `[B, 1, H, W]`."""
    layers, maps = attention_layers(classifier), []
    reference = classifier.normalisation[0]
    for image, target in zip(images, targets, strict=True):
        relevances: list[Any] = [0.0] * len(layers)
        for i in range(steps + 1):
            point = reference + i / steps * (image - reference)
            for k in range(steps + 1):
                factor = k / steps
                scale = layers[-1].register_forward_hook(
                    lambda _, __, output, factor=factor: (output.detach() * factor).requires_grad_()
                )
                try:
                    with unfused(classifier.model), captured(layers) as attention:
                        score = classifier(point)[0, target]
                finally:
                    scale.remove()
                matrices = [attention[block] for block in range(len(layers))]
                for block, (a, g) in enumerate(zip(matrices, torch.autograd.grad(score, matrices), strict=True)):
                    relevances[block] = relevances[block] + (a.detach() * g).relu().mean(1) / (steps + 1) ** 2
        joint = torch.eye(relevances[0].shape[-1], device=image.device)
        for relevance in relevances:
            augmented = relevance[0] + torch.eye(len(joint), device=image.device)
            joint = augmented / augmented.sum(-1, keepdim=True) @ joint
        row = (readout(classifier, len(joint)) @ joint)[classifier.num_prefix_tokens :]
        maps.append(F.interpolate(row.view(1, 1, *classifier.grid), size=image.shape[-2:], mode="bilinear"))
    return torch.cat(maps)


@contextmanager
def counted(classifier: Classifier) -> Iterator[Passes]:
    """Count the images in all forward and backward passes within the context."""
    passes = Passes()
    # The graph begins at the first attention matrix, so a full backward pass is counted at the second.
    second = attention_layers(classifier)[1]

    def backward(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    def forward(_: Any, __: Any, output: Tensor) -> None:
        passes.forward += len(output)
        output.register_hook(backward)

    def tail(_: Any, __: Any, logits: Tensor) -> None:
        passes.tail += len(logits)

    head = classifier.model.get_classifier()  # type: ignore[operator]
    head = head[0] if isinstance(head, (tuple, list)) else head
    handles = [second.register_forward_hook(forward), head.register_forward_hook(tail)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def measure(config: AttributeBench) -> None:
    """Print the time per image of each variant, the ratio, the largest difference of the maps, and the passes."""
    if min(config.count, config.looped, config.steps, config.repeats) < 1:
        raise InputError("count, looped, steps and repeats must be positive")
    device = pick_device(config.device)
    settings = config.classifier
    if settings.name == ClassifierConfig().name:
        settings.name, settings.weights = "deit_tiny_patch16_224", settings.weights or "random"
    classifier = settings.build().to(device)
    attention_layers(classifier)  # raises an error for models without attention before any work
    files = find_images(config.images)
    files = (files * (1 + config.count // len(files)))[: config.count]
    images = load_images(files, classifier.input_size).to(device)
    with torch.no_grad():
        targets = classifier(images).argmax(1)
    few = min(config.looped, len(images))
    maps: dict[str, Tensor] = {}
    passes: dict[str, Passes] = {}

    def loop() -> None:
        maps["loop"] = naive_iia2(classifier, images[:few], targets[:few], config.steps)

    def batched(name: str, tolerance: float, precision: str) -> None:
        before = classifier.precision
        classifier.precision = precision  # type: ignore[assignment]
        options = {"variant": "released", "steps": config.steps, "tolerance": tolerance}
        try:
            with counted(classifier) as passes[name]:
                maps[name] = attribute("iia2", classifier, images, targets, max_batch=config.max_batch, **options)
        finally:
            classifier.precision = before

    variants = {
        "exact": (0.0, classifier.precision),
        "tolerance 0.001 (default)": (1e-3, classifier.precision),
        f"tolerance {config.tolerance:g}": (config.tolerance, classifier.precision),
        f"tolerance {config.tolerance:g}, bf16": (config.tolerance, "bf16"),
    }
    candidates = {"loop": loop} | {
        name: (lambda n=name, v=variant: batched(n, *v)) for name, variant in variants.items()
    }
    seconds = take_turns(candidates, config.repeats, device)
    each = {name: [t / (few if name == "loop" else len(images)) for t in times] for name, times in seconds.items()}
    points = config.steps + 1
    print(f"IIA2, {points} x {points} points, {classifier.name}, {len(images)} images, {device}")
    _print_variants(each, maps, passes, len(images))
    print(
        f"  passes per image: forward / head / backward; the loop needs {points**2} / {points**2} / "
        f"{points**2}; exact gradients need {points} / {points**2} / {points**2}"
    )
    if config.memory_images:
        _memory(classifier, images, config)


def _print_variants(
    each: dict[str, list[float]], maps: dict[str, Tensor], passes: dict[str, Passes], count: int
) -> None:
    """Print one line for the loop and one for each variant.

    Args:
        each: seconds per image of each turn.
        maps: maps of each variant; those of the loop are for the first images only.
        passes: passes of each variant over `count` images.
    """
    loop, median = maps["loop"], medians(each)
    print(f"  {1000 * median['loop']:9.1f} ms per image  full passes, one image at a time")
    span = loop.amax((2, 3)) - loop.amin((2, 3))
    for name, rows in passes.items():
        error = ((maps[name][: len(loop)] - loop).abs().amax((2, 3)) / span).max().item()
        counts = " / ".join(f"{value / count:.1f}" for value in (rows.forward, rows.tail, rows.backward))
        print(
            f"  {1000 * median[name]:9.1f} ms per image  {name}: {median_ratio(each['loop'], each[name]):.2f} x, "
            f"differs by {error:.0e} of the map's range; passes {counts}"
        )


def _memory(classifier: Classifier, images: Tensor, config: AttributeBench) -> None:
    """Print the peak memory while many images are explained; it stays constant if no memory leaks."""
    done, printed = 0, 0
    while done < config.memory_images:
        attribute("iia2", classifier, images, variant="released", steps=config.steps, max_batch=config.max_batch)
        done += len(images)
        if done - printed >= config.memory_images / 5 or done >= config.memory_images:
            printed = done
            gc.collect()
            print(f"  after {done:5d} images: peak memory {_peak(images.device):9.1f} MiB")


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
