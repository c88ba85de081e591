"""Masks of any area: time and passes of each way to get them, many images at once beside one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ltx.areas import SWEEP, AreaMasks
from ltx.attribution.extremal import extremal_masks
from ltx.attribution.inr import fit_inr
from ltx.bench.timing import median_ratio, medians, take_turns
from ltx.checkpoints import load
from ltx.classifier import Classifier, pick_device
from ltx.config import ClassifierConfig, option, run
from ltx.data.images import find_images, load_images
from ltx.errors import InputError
from ltx.explainers.inr import INRExplainer
from ltx.fill import Fill
from ltx.finetuning import finetune


@dataclass
class BenchConfig:
    """What is measured."""

    checkpoint: str | None = option(None, help="amortised INR that train.py wrote; null = an untrained one")
    classifier: ClassifierConfig = option(ClassifierConfig, help="the explained model, where checkpoint is null")
    weights: str | None = option(None, help="the classifier's weights, if not where they were in training")
    images: Any = option("scikit-image", help="images; the first `count` are used, repeated if there are fewer")
    count: int = option(16, help="images at once")
    steps: int = option(5, help="steps of the INRs")
    extremal_steps: int = option(5, help="steps of extremal perturbation")
    nested: bool = option(True, help="of the INRs that are fitted from scratch")
    areas: list[float] = option(list(SWEEP), help="areas whose masks are compared")
    repeats: int = option(1, help="counted turns, after one that is not; 0 = no times, one run of each for the masks")
    device: str = option("auto", help="auto, cpu, cuda, …")


@contextmanager
def passes_counted(classifier: Classifier) -> Iterator[list[int]]:
    """Counts the images that the classifier sees; those of an optimiser's steps go backwards too."""
    seen = [0]

    def count(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen[0] += len(inputs[0])

    first = next(module for module in classifier.model.modules() if not list(module.children()))
    handle = first.register_forward_pre_hook(count)
    try:
        yield seen
    finally:
        handle.remove()


def measure(config: BenchConfig) -> None:
    """Print time and passes of each way, and of its masks: area, binary share, continuity and what they keep."""
    if min(config.count, config.steps, config.extremal_steps) < 1 or config.repeats < 0:
        raise InputError("count, steps and extremal_steps must be positive, repeats 0 or more")
    device = pick_device(config.device)
    if config.checkpoint is None:
        torch.manual_seed(0)
        amortised = INRExplainer(config.classifier.build().to(device), nested=True).to(device).eval()
    else:
        loaded = load(config.checkpoint, device=device, weights=config.weights)
        if not isinstance(loaded, INRExplainer):
            raise InputError(f"checkpoint={config.checkpoint} holds no INR; train one with explainer.name=inr")
        amortised = loaded
    classifier = amortised.classifier
    files = find_images(config.images)
    files = (files * (1 + config.count // len(files)))[: config.count]
    images = load_images(files, classifier.input_size).to(device)
    with torch.no_grad():
        logits = torch.cat([classifier(part) for part in images.split(16)])
    targets = logits.argmax(1)
    whole = classifier.log_probability(logits, targets).exp()
    shown = AreaMasks(classifier, images, Fill("blur")(images), targets, whole, _unasked)
    areas, nearby = config.areas, [area + 0.01 for area in config.areas]

    def extremal(pixels: Tensor, classes: Tensor) -> Tensor:
        return extremal_masks(classifier, pixels, classes, [*areas, *nearby], config.extremal_steps)

    fitted = partial(fit_inr, classifier, steps=config.steps, nested=config.nested)
    ways: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "amortised, one pass": lambda pixels, classes: amortised.explain(pixels, classes),
        "amortised, finetuned": lambda pixels, classes: finetune(amortised, pixels, classes, config.steps, fill="blur"),
        "fitted from scratch": lambda pixels, classes: fitted(pixels, classes),
        "extremal perturbation": extremal,
    }
    print(f"{classifier.name}, {len(images)} images, {config.steps} steps of INRs, {device}")
    for name, way in ways.items():
        with passes_counted(classifier) as seen:
            found = way(images, targets)
        count = seen[0] / len(images)
        masks = found if isinstance(found, Tensor) else found.by_area([*areas, *nearby])
        if isinstance(found, Tensor):
            count /= 2  # the second half of its areas is there for the continuity alone
        print(f"{name}: {count:.1f} passes an image")
        _describe(shown, masks, areas)
        if config.repeats:
            _time(way, images, targets, config.repeats, device)


def _unasked(areas: Tensor, size: tuple[int, int] | None) -> Tensor:
    raise NotImplementedError


def _describe(shown: AreaMasks, masks: Tensor, areas: list[float]) -> None:
    """Print what masks `[B, 2 A, H, W]` of some areas and of those 0.01 larger are like."""
    here, above = masks.chunk(2, 1)
    miss = (here.mean((2, 3)) - here.new_tensor(areas)).abs().mean()
    between = ((here > 0.1) & (here < 0.9)).float().mean((0, 2, 3))
    change = (above - here).abs().mean((2, 3))
    count = here.shape[-2] * here.shape[-1]
    ranks = here.flatten(2).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    hard = (ranks < (here.new_tensor(areas) * count)[:, None]).to(here).view_as(here)
    kept = shown.kept(hard).mean(0)
    falls = (here - here.cummax(1).values).abs().mean()
    print(f"  |mean - area| {float(miss):.4f}, smaller masks outside larger ones {float(falls):.4f} of the pixels")
    print(f"  change for 0.01 of area, mean over pixels: {float(change.mean()):.4f}, largest {float(change.max()):.4f}")
    for area, share, chance in zip(areas, between.tolist(), kept.tolist(), strict=True):
        print(f"  area {area:<5g} kept probability {chance:.3f} (mask cut at its area), in 0.1-0.9 {share:.3f}")


def _time(
    way: Callable[[Tensor, Tensor], Any], images: Tensor, targets: Tensor, repeats: int, device: torch.device
) -> None:
    """Print the seconds of an image among many, and the ratio to one on its own."""

    def one_by_one() -> None:
        for image, target in zip(images, targets, strict=True):
            way(image[None], target[None])

    seconds = take_turns({"at once": lambda: way(images, targets), "one by one": one_by_one}, repeats, device)
    each = {name: value / len(images) for name, value in medians(seconds).items()}
    ratio = median_ratio(seconds["one by one"], seconds["at once"])
    print(f"  {each['at once']:.3f} s an image at once, {each['one by one']:.3f} s one by one: {ratio:.2f} x")


def main(argv: list[str]) -> None:
    """`python -m ltx.bench inr`."""
    run(measure, BenchConfig, "python -m ltx.bench inr", "Masks of any area: time, passes and what they keep.", argv)
