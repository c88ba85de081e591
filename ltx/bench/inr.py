"""Masks of any area: time and forward passes of each method, for a batch and for one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ltx.attribution.extremal_perturbation import extremal_masks
from ltx.attribution.inr import INRFit, fit_inr
from ltx.bench.passes import passes_counted
from ltx.bench.settings import TITLES, WAYS, INRBench
from ltx.bench.timing import median_ratio, medians, take_turns
from ltx.checkpoints.loading import load
from ltx.classifier.settings import ClassifierConfig
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.evaluation.methods import build_methods
from ltx.explainers.inr import INRExplainer
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.masking.fill import Fill
from ltx.metrics.perturbation import read_logits
from ltx.metrics.protocol import Batch
from ltx.results.masks_by_area import AreaMasks
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError, suggest


def measure(config: INRBench) -> None:
    """Print time and passes of each method, and the area, sharpness, continuity and kept probability of its masks."""
    if min(config.count, config.steps, config.finetuning_steps, config.extremal_steps) < 1 or config.repeats < 0:
        raise InputError("count, steps, finetuning_steps and extremal_steps must be positive, repeats 0 or more")
    for way in config.ways:
        if way not in WAYS:
            raise InputError(f"ways: {way!r} is not a valid method{suggest(way, WAYS)}; allowed: {', '.join(WAYS)}")
    device = pick_device(config.device)
    if config.checkpoint is None:
        torch.manual_seed(0)
        amortised = INRExplainer(config.classifier.build().to(device), nested=True).to(device).eval()
    else:
        amortised = amortised_inr(config.checkpoint, config.classifier, device)
    classifier = amortised.classifier.fold_norms()
    methods, left_out = build_methods(config.compare, classifier, 0, False, 64) if config.compare else ([], {})
    files = find_images(config.images)
    files = [files[index * len(files) // config.count] for index in range(config.count)]
    images = load_images(files, classifier.input_size, channels=classifier.channels).to(device)
    with torch.no_grad():
        logits = torch.cat([classifier(part) for part in images.split(16)])
    targets = logits.argmax(1)
    probability = classifier.log_probability(logits, targets).exp()
    area_masks = AreaMasks(classifier, images, Fill("blur")(images), targets, probability, _no_masks)
    blurred, fit = FinetuneSettings(fill="blur"), INRFit(config.steps, nested=config.nested)
    unique = [files.index(file) == index for index, file in enumerate(files)]
    areas = config.areas
    ways: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "one_pass": lambda pixels, classes: amortised.explain(pixels, classes),
        "finetuned": lambda pixels, classes: finetune(amortised, pixels, classes, config.finetuning_steps, blurred),
        "fitted": lambda pixels, classes: fit_inr(classifier, pixels, classes, fit),
        "extremal": lambda pixels, classes: extremal_masks(classifier, pixels, classes, areas, config.extremal_steps),
    }
    larger = [area + 0.01 for area in areas] if config.continuity else []
    print(f"{classifier.name}, {len(images)} images, target predicted, fill blur, {device}")
    print(f"probability of the full images: {float(probability.mean()):.3f}", flush=True)
    for name in config.ways:
        with passes_counted(classifier) as counter:
            result = ways[name](images, targets)
        if isinstance(result, Tensor):
            count, masks = counter[0] / len(images), result
            if larger:
                above = extremal_masks(classifier, images, targets, larger, config.extremal_steps)
                masks = torch.cat([masks, above], 1)
        else:
            # The kept and the removed pixels are classified when their probabilities are first read.
            count, masks = counter[0] / len(images), result.by_area([*areas, *larger])
        print(f"{TITLES[name].format(**vars(config))}: {count:.1f} passes per image")
        _describe(masks, areas)
        _print_kept(area_masks, masks[:, : len(areas)], areas, unique)
        if config.repeats:
            _time(ways[name], images, targets, config.repeats, device)
    for label, reason in left_out.items():
        print(f"{label}: left out, {reason}")
    batch = Batch([str(file) for file in files], images, targets, read_logits(classifier, logits, targets))
    for method in methods:
        with passes_counted(classifier) as counter:
            maps = method.make(classifier, images, targets, batch)
        print(f"{method.label}: {counter[0] / len(images):.1f} passes per image, its map thresholded at the areas")
        _print_kept(area_masks, maps.expand(-1, len(areas), -1, -1), areas, unique)


def amortised_inr(checkpoint: str, config: ClassifierConfig, device: torch.device) -> INRExplainer:
    """Load an amortised INR, with the classifier's weights and precision from `config`.

    Raises:
        InputError: see `ltx.load`; or the checkpoint does not contain an INR.
    """
    loaded = load(checkpoint, device=device, weights=config.weights, precision=config.precision)
    if not isinstance(loaded, INRExplainer):
        raise InputError(f"checkpoint={checkpoint} does not contain an INR; train one with explainer.name=inr")
    return loaded


def _no_masks(areas: Tensor, size: tuple[int, int] | None) -> Tensor:
    raise NotImplementedError("the masks are passed to `AreaMasks.kept`")


def _describe(masks: Tensor, areas: list[float]) -> None:
    """Print properties of masks `[B, A or 2 A, H, W]`: those of `areas`, then optionally those of areas 0.01 larger."""
    here, above = masks[:, : len(areas)], masks[:, len(areas) :]
    miss = (here.mean((2, 3)) - here.new_tensor(areas)).abs().mean()
    falls = (here - here.cummax(1).values).abs().mean()
    between = ((here > 0.1) & (here < 0.9)).float().mean((0, 2, 3))
    print(f"  |mean - area| {float(miss):.4f}, smaller masks outside larger ones {float(falls):.4f} of the pixels")
    print(f"  share of pixels in 0.1-0.9: mean {float(between.mean()):.3f}, largest {float(between.max()):.3f}")
    if len(above[0]):
        change = (above - here).abs()
        most = float((change > 0.5).float().mean((2, 3)).max())
        print(
            f"  from an area to one 0.01 larger: mean change {float(change.mean()):.4f}, of the worst mask "
            f"{float(change.mean((2, 3)).max()):.4f}; largest share of pixels that change by more than 0.5: {most:.4f}"
        )


def _print_kept(area_masks: AreaMasks, maps: Tensor, areas: list[float], unique: list[bool]) -> None:
    """Print the probability of the target class under maps `[B, A, H, W]`, each thresholded at its area.

    Means and half-widths of their 95 % intervals, over images that are not repeated.
    """
    count = maps.shape[-2] * maps.shape[-1]
    ranks = maps.flatten(2).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    hard = (ranks < (maps.new_tensor(areas) * count).round()[:, None]).to(maps).view_as(maps)
    kept = area_masks.kept(hard)[torch.tensor(unique, device=hard.device)]
    spread = 1.96 * kept.std(0, correction=min(1, len(kept) - 1)) / len(kept) ** 0.5
    parts = zip(areas, kept.mean(0).tolist(), spread.tolist(), strict=True)
    print("  kept probability: " + ", ".join(f"{a:g}: {value:.3f} +- {e:.3f}" for a, value, e in parts), flush=True)


def _time(
    way: Callable[[Tensor, Tensor], Any], images: Tensor, targets: Tensor, repeats: int, device: torch.device
) -> None:
    """Print the seconds per image for a batch and for one image at a time, and their ratio."""

    def one_by_one() -> None:
        for image, target in zip(images, targets, strict=True):
            way(image[None], target[None])

    seconds = take_turns({"at once": lambda: way(images, targets), "one by one": one_by_one}, repeats, device)
    each = {name: value / len(images) for name, value in medians(seconds).items()}
    ratio = median_ratio(seconds["one by one"], seconds["at once"])
    print(f"  {each['at once']:.3f} s per image in a batch, {each['one by one']:.3f} s one by one: {ratio:.2f} x")
