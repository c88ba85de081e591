"""The `ltx` protocol beside the bare forward passes it needs, and beside Quantus on the same maps."""

from __future__ import annotations

import contextlib
import io
import resource
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ltx.bench.settings import EvaluateBench
from ltx.bench.timing import median_ratio, medians, take_turns
from ltx.classifier.classifier import Classifier
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.evaluation.controls import random_map
from ltx.metrics.perturbation import default_max_batch, min_max, predict
from ltx.metrics.protocol import Batch, Settings
from ltx.metrics.registry import PROTOCOLS
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError

FORWARDS = 20  # for each image: unmasked, 9 highest first, 9 lowest first, 1 under the soft map


def measure(config: EvaluateBench) -> None:
    """Print seconds per image of the suite, its floor and Quantus, their ratios, and the memory they take."""
    if min(config.count, config.repeats) < 1:
        raise InputError("count and repeats must be positive")
    device = pick_device(config.device)
    classifier = config.classifier.build().to(device).fold_norms()
    max_batch = config.max_batch or default_max_batch(device)
    files = find_images(config.images)
    files = (files * (1 + config.count // len(files)))[: config.count]
    images = load_images(files, classifier.input_size).to(device)
    with torch.no_grad():
        targets = torch.cat([classifier(part).argmax(1) for part in images.split(max_batch)])
    names = [f"{place} {file.name}" for place, file in enumerate(files)]
    unmasked = predict(classifier, images, targets, max_batch)
    maps = random_map(classifier, images, targets, Batch(names, images, targets, unmasked))

    def suite() -> Tensor:
        return run_suite(classifier, names, images, maps, targets, max_batch)

    def floor() -> None:
        with torch.no_grad():
            for start in range(0, FORWARDS * len(images), max_batch):
                size = min(max_batch, FORWARDS * len(images) - start)
                classifier(ready[:size])

    ready = images.repeat(1 + max_batch // len(images), 1, 1, 1)[:max_batch]
    candidates: dict[str, Any] = {"suite": suite, "floor": floor}
    if config.quantus:

        def quantus() -> None:
            with in_fp32(classifier):
                for hard in (False, True):
                    quantus_curves(classifier, images, maps, targets, hard)

        candidates["quantus"] = quantus
    seconds = take_turns(candidates, config.repeats, device)
    per_image = {name: value / len(images) for name, value in medians(seconds).items()}
    setting = f"{len(images)} images, max_batch {max_batch}, {config.repeats} turns"
    print(f"{classifier.name} in {classifier.precision} on {device}, {setting}")
    print(f"suite    {per_image['suite']:.4f} s/image: POS NEG DEL INS ADP PIC, {FORWARDS} forward passes an image")
    print(f"floor    {per_image['floor']:.4f} s/image: {FORWARDS} bare forward passes an image")
    print(f"suite / floor    {median_ratio(seconds['suite'], seconds['floor']):.3f}")
    if config.quantus:
        steps = quantus_steps(maps[0].numel())
        print(f"quantus  {per_image['quantus']:.4f} s/image: PixelFlipping for POS NEG DEL INS, {steps} steps, in fp32")
        ratio = median_ratio(seconds["quantus"], seconds["suite"])
        print(f"quantus / suite  {ratio:.2f}; with its steps scaled to 9: {9 * ratio / steps:.2f}")
    if classifier.precision != "fp32":
        found = suite()
        with in_fp32(classifier):
            print(f"largest difference of a metric from fp32 on these images: {(found - suite()).abs().max():.2f}")
    for size in (max_batch, max(1, max_batch // 4)):
        memory = peak_memory(device, lambda size=size: run_suite(classifier, names, images, maps, targets, size))
        if memory is not None:
            print(f"memory of the suite at max_batch {size}: {memory / 2**20:.0f} MiB above what was held")
    if device.type == "cpu":
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"largest resident size of the whole run: {largest:.0f} MiB")


@contextlib.contextmanager
def in_fp32(classifier: Classifier) -> Iterator[None]:
    """The classifier as other packages would run it, whatever its precision here."""
    before, classifier.precision = classifier.precision, "fp32"
    try:
        yield
    finally:
        classifier.precision = before


def run_suite(
    classifier: Classifier, names: list[str], images: Tensor, maps: Tensor, targets: Tensor, max_batch: int
) -> Tensor:
    """All six metrics of the `ltx` protocol from images and maps, prediction for the full image included."""
    unmasked = predict(classifier, images, targets, max_batch)
    protocol = PROTOCOLS["ltx"](Settings(max_batch))
    metrics = protocol.collection().to(images.device)
    batch = Batch(names, images, targets, unmasked)
    metrics.update(**protocol.measure(classifier, batch, maps, {}, lambda *_: maps))
    return torch.stack(list(metrics.compute().values()))


def peak_memory(device: torch.device, work: Any = None) -> int | None:
    """Most bytes of GPU memory that `work` takes beyond what is held already; None on a CPU."""
    if device.type != "cuda" or work is None:
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - held


def quantus_steps(pixels: int, least: int = 9) -> int:
    """The fewest steps from `least` up that Quantus takes: features a step must divide the number of pixels."""
    return next(3 * parts for parts in range(-(-least // 3), pixels) if pixels % parts == 0)


class _Logits(nn.Module):
    """The classifier as the `nn.Module` that Quantus takes; `hard`: one for the predicted class, zero for others."""

    def __init__(self, classifier: Classifier, hard: bool) -> None:
        super().__init__()
        self.hard = hard
        self.classifier = classifier
        self.model = classifier.model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.classifier(images)
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float() if self.hard else logits


def quantus_curves(
    classifier: Classifier, images: Tensor, maps: Tensor, targets: Tensor, hard: bool = False
) -> dict[str, np.ndarray]:
    """Quantus's PixelFlipping with black: `p_y` `[B, S]` after each of `quantus_steps` equal steps to 100 %, by order.

    Quantus ranks features, not pixels, and only alters the first channel of a one-channel map's pixels; a map repeated
    over the channels makes it remove whole pixels. Its metric has no unmasked end, one order at a time, and accuracy
    only by way of a model that answers with it (`hard`).

    Raises:
        InputError: the package is not installed.
    """
    try:
        import quantus
    except ImportError as error:
        raise InputError(
            "quantus=true needs the package quantus: pip install quantus, or write quantus=false"
        ) from error
    if not hasattr(np, "trapz"):  # removed in NumPy 2.4, still called by Quantus 0.6
        np.trapz = np.trapezoid  # type: ignore[attr-defined]
    pictures, classes = images.cpu().numpy(), targets.cpu().numpy()
    stretched = min_max(maps).expand_as(images).cpu().numpy()  # Quantus refuses maps that are negative everywhere
    pixels = maps[0].numel()
    curves = {}
    for order, ranked in (("highest", stretched), ("lowest", 1 - stretched)):
        metric = quantus.PixelFlipping(
            features_in_step=3 * pixels // quantus_steps(pixels),
            # Its "black" is the darkest value of the image; numbers work, whatever the annotation says.
            perturb_baseline=0.0,  # type: ignore[arg-type]
            abs=False,
            normalise=False,
            disable_warnings=True,
            display_progressbar=False,
        )
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            found = metric(
                model=_Logits(classifier, hard).eval(),
                x_batch=pictures,
                y_batch=classes,
                a_batch=ranked,
                device=str(images.device),
                softmax=not hard,
                channel_first=True,
            )
        curves[order] = np.asarray(found)
    return curves
