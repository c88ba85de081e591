"""Batched IIA2 (`variant=released`) next to the double loop of full passes over one image at a time."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.attribution.attention import attention_chain
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
    start, maps = attention_chain(classifier).start, []
    layers = [block.attn.attn_drop for block in classifier.model.blocks]  # type: ignore[union-attr]  # timm's
    reference = classifier.normalisation[0]
    for image, target in zip(images, targets, strict=True):
        relevances: list[Any] = [0.0] * len(layers)
        for i in range(steps + 1):
            point = reference + i / steps * (image - reference)
            for k in range(steps + 1):
                factor = k / steps
                matrices: list[Tensor] = []

                def keep(_: Any, __: Any, matrix: Tensor, factor: float = factor, seen: list[Tensor] = matrices) -> Any:
                    is_last = len(seen) == len(layers) - 1
                    matrix = matrix.detach() * factor if is_last else matrix
                    seen.append(matrix if matrix.requires_grad else matrix.detach().requires_grad_())
                    return seen[-1]

                with unfused(classifier.model), hooked(layers, keep):
                    score = classifier(point)[0, target]
                for block, (a, g) in enumerate(zip(matrices, torch.autograd.grad(score, matrices), strict=True)):
                    relevances[block] = relevances[block] + (a.detach() * g).relu().mean(1) / (steps + 1) ** 2
        joint = torch.eye(relevances[0].shape[-1], device=image.device)
        for relevance in relevances:
            augmented = relevance[0] + torch.eye(len(joint), device=image.device)
            joint = augmented / augmented.sum(-1, keepdim=True) @ joint
        row = (start @ joint)[classifier.num_prefix_tokens :]
        maps.append(F.interpolate(row.view(1, 1, *classifier.grid), size=image.shape[-2:], mode="bilinear"))
    return torch.cat(maps)


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Context in which timm's attention modules form their matrices."""
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    try:
        for module in fused:
            module.fused_attn = False  # type: ignore[assignment]  # timm's attribute
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]  # timm's attribute


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """Context in which modules have a forward hook."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def counted(classifier: Classifier) -> Iterator[Passes]:
    """Count the images in all forward and backward passes within the context."""
    passes = Passes()
    # The graph begins at the first attention matrix, so the second block sees every backward pass. Hooks on the block
    # would also run when it returns its recorded output; those on the layers inside it do not.
    block = attention_chain(classifier).blocks[1].module
    second = next(module for module in block.modules() if not list(module.children()))

    def backward(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    def forward(_: Any, __: Any, output: Tensor) -> None:
        passes.forward += len(output)
        output.register_hook(backward)

    def tail(_: Any, __: Any, logits: Tensor) -> None:
        passes.tail += len(logits)

    head = classifier.model.get_classifier()  # type: ignore[operator]  # timm's method
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
    attention_chain(classifier)  # raises an error for models without attention before any work
    files = find_images(config.images)
    files = (files * (1 + config.count // len(files)))[: config.count]
    images = load_images(files, classifier.input_size, channels=classifier.channels).to(device)
    with torch.no_grad():
        targets = classifier(images).argmax(1)
    few = min(config.looped, len(images))
    maps: dict[str, Tensor] = {}
    passes: dict[str, Passes] = {}

    def loop() -> None:
        maps["loop"] = naive_iia2(classifier, images[:few], targets[:few], config.steps)

    def batched(name: str, options: dict[str, Any], precision: str) -> None:
        before = classifier.precision
        classifier.precision = precision  # type: ignore[assignment]  # one of the two valid names
        options = {"variant": "released", "steps": config.steps} | options
        try:
            with counted(classifier) as passes[name]:
                maps[name] = attribute("iia2", classifier, images, targets, max_batch=config.max_batch, **options)
        finally:
            classifier.precision = before

    variants: dict[str, tuple[dict[str, Any], str]] = {
        "exact": ({"tolerance": 0.0}, classifier.precision),
        "default": ({}, classifier.precision),
        "default, bf16": ({}, "bf16"),
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
