"""The `ltx` protocol next to the forward passes that it needs, and compared with Quantus on the same maps."""

from __future__ import annotations

import contextlib
import io
import resource
import warnings
from collections.abc import Callable, Iterator
from functools import partial
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

FORWARDS = 20  # for each image: unmasked, 9 highest first, 9 lowest first, masked by the map


def measure(config: EvaluateBench) -> None:
    """Print seconds per image of the suite, of its lower bound and of Quantus, their ratios, and memory."""
    if min(config.count, config.repeats) < 1:
        raise InputError("count and repeats must be positive")
    device = pick_device(config.device)
    classifier = config.classifier.build().to(device).fold_norms()
    max_batch = config.max_batch or default_max_batch(device)
    files = find_images(config.images)
    files = (files * (1 + config.count // len(files)))[: config.count]
    images = load_images(files, classifier.input_size, channels=classifier.channels).to(device)
    with torch.no_grad():
        targets = torch.cat([classifier(part).argmax(1) for part in images.split(max_batch)])
    names = [f"{place} {file.name}" for place, file in enumerate(files)]
    unmasked = predict(classifier, images, targets, max_batch)
    maps = random_map(classifier, images, targets, Batch(names, images, targets, unmasked))

    def suite() -> Tensor:
        return run_suite(classifier, names, images, maps, targets, max_batch)

    def bound() -> None:
        with torch.no_grad():
            for start in range(0, FORWARDS * len(images), max_batch):
                size = min(max_batch, FORWARDS * len(images) - start)
                classifier(ready[:size])

    ready = images.repeat(1 + max_batch // len(images), 1, 1, 1)[:max_batch]
    candidates: dict[str, Any] = {"suite": suite, "bound": bound}
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
    print(
        f"suite        {per_image['suite']:.4f} s/image: POS NEG DEL INS ADP PIC, {FORWARDS} forward passes per image"
    )
    print(f"lower bound  {per_image['bound']:.4f} s/image: {FORWARDS} forward passes per image alone")
    print(f"suite / lower bound  {median_ratio(seconds['suite'], seconds['bound']):.3f}")
    if config.quantus:
        steps = quantus_steps(maps[0].numel())
        print(
            f"quantus      {per_image['quantus']:.4f} s/image: PixelFlipping for POS NEG DEL INS, {steps} steps, fp32"
        )
        ratio = median_ratio(seconds["quantus"], seconds["suite"])
        print(f"quantus / suite      {ratio:.2f}; scaled to 9 steps: {9 * ratio / steps:.2f}")
    if classifier.precision != "fp32":
        scores = suite()
        with in_fp32(classifier):
            print(f"largest difference of a metric from fp32 on these images: {(scores - suite()).abs().max():.2f}")
    for size in (max_batch, max(1, max_batch // 4)):
        _print_memory(size, device, partial(run_suite, classifier, names, images, maps, targets, size))
    if device.type == "cpu":
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak resident memory of the whole run: {largest:.0f} MiB")


def _print_memory(max_batch: int, device: torch.device, suite: Callable[[], object]) -> None:
    memory = peak_memory(device, suite)
    if memory is not None:
        print(f"memory of the suite with max_batch {max_batch}: {memory / 2**20:.0f} MiB")


@contextlib.contextmanager
def in_fp32(classifier: Classifier) -> Iterator[None]:
    """Run the classifier in fp32, as other packages do, regardless of its precision."""
    before, classifier.precision = classifier.precision, "fp32"
    try:
        yield
    finally:
        classifier.precision = before


def run_suite(
    classifier: Classifier, names: list[str], images: Tensor, maps: Tensor, targets: Tensor, max_batch: int
) -> Tensor:
    """All six metrics of the `ltx` protocol, including the unmasked forward pass."""
    unmasked = predict(classifier, images, targets, max_batch)
    protocol = PROTOCOLS["ltx"](Settings(max_batch))
    metrics = protocol.collection().to(images.device)
    batch = Batch(names, images, targets, unmasked)
    metrics.update(**protocol.measure(classifier, batch, maps, {}, lambda *_: maps))
    return torch.stack(list(metrics.compute().values()))


def peak_memory(device: torch.device, work: Any = None) -> int | None:
    """Peak GPU memory of `work` in bytes, beyond the memory already allocated; None on a CPU."""
    if device.type != "cuda" or work is None:
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def quantus_steps(pixels: int, least: int = 9) -> int:
    """Smallest number of steps, `least` or more, that Quantus accepts: pixels per step must divide the pixels."""
    return next(3 * parts for parts in range(-(-least // 3), pixels) if pixels % parts == 0)


class _Logits(nn.Module):
    """The classifier as an `nn.Module` for Quantus; `hard` returns 1 for the predicted class and 0 for others."""

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
    """PixelFlipping of Quantus with black: `p_y` `[B, S]` after each of `quantus_steps` equal steps, by order.

    Quantus ranks features, not pixels. For a map with one channel it changes only the first channel of a pixel, so the
    map is repeated over the channels. Its curve does not contain the full image, each call computes one order, and
    accuracy requires a model that returns it (`hard`).

    Raises:
        InputError: the package is not installed.
    """
    try:
        import quantus
    except ImportError as error:
        raise InputError(
            "quantus=true needs the package quantus: pip install quantus, or write quantus=false"
        ) from error
    if not hasattr(np, "trapz"):  # removed in NumPy 2.4 but still called by Quantus 0.6
        np.trapz = np.trapezoid  # type: ignore[attr-defined]  # removed
    pictures, classes = images.cpu().numpy(), targets.cpu().numpy()
    stretched = min_max(maps).expand_as(images).cpu().numpy()  # Quantus rejects maps that are negative everywhere
    pixels = maps[0].numel()
    curves = {}
    for order, ranked in (("highest", stretched), ("lowest", 1 - stretched)):
        metric: Any = quantus.PixelFlipping(  # type: ignore[attr-defined]  # exported dynamically
            features_in_step=3 * pixels // quantus_steps(pixels),
            perturb_baseline=0.0,  # its "black" is the darkest value of the image
            abs=False,
            normalise=False,
            disable_warnings=True,
            display_progressbar=False,
        )
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            probabilities = metric(
                model=_Logits(classifier, hard).eval(),
                x_batch=pictures,
                y_batch=classes,
                a_batch=ranked,
                device=str(images.device),
                softmax=not hard,
                channel_first=True,
            )
        curves[order] = np.asarray(probabilities)
    return curves
