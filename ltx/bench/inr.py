"""Masks of any area: time and passes of each way to get them, many images at once beside one by one."""

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
from ltx.checkpoints.folder import load
from ltx.classifier.settings import ClassifierConfig
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.evaluation.methods import build_methods
from ltx.explainers.inr import INRExplainer
from ltx.finetuning.finetune import finetune
from ltx.masking.fill import Fill
from ltx.metrics.perturbation import read_logits
from ltx.metrics.protocol import Batch
from ltx.results.masks_by_area import AreaMasks
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError, suggest


def measure(config: INRBench) -> None:
    """Print time and passes of each way, and of its masks: area, binary share, continuity and what they keep."""
    if min(config.count, config.steps, config.finetuning_steps, config.extremal_steps) < 1 or config.repeats < 0:
        raise InputError("count, steps, finetuning_steps and extremal_steps must be positive, repeats 0 or more")
    for way in config.ways:
        if way not in WAYS:
            raise InputError(f"ways: {way!r} is unknown{suggest(way, WAYS)}; allowed: {', '.join(WAYS)}")
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
    images = load_images(files, classifier.input_size).to(device)
    with torch.no_grad():
        logits = torch.cat([classifier(part) for part in images.split(16)])
    targets = logits.argmax(1)
    whole = classifier.log_probability(logits, targets).exp()
    shown = AreaMasks(classifier, images, Fill("blur")(images), targets, whole, _unasked)
    unique = [files.index(file) == index for index, file in enumerate(files)]
    areas = config.areas
    ways: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "one_pass": lambda pixels, classes: amortised.explain(pixels, classes),
        "finetuned": lambda pixels, classes: finetune(amortised, pixels, classes, config.finetuning_steps, fill="blur"),
        "fitted": lambda pixels, classes: fit_inr(
            classifier, pixels, classes, INRFit(config.steps, nested=config.nested)
        ),
        "extremal": lambda pixels, classes: extremal_masks(classifier, pixels, classes, areas, config.extremal_steps),
    }
    larger = [area + 0.01 for area in areas] if config.continuity else []
    print(f"{classifier.name}, {len(images)} images, target predicted, fill blur, {device}")
    print(f"probability of the whole images: {float(whole.mean()):.3f}", flush=True)
    for name in config.ways:
        with passes_counted(classifier) as seen:
            found = ways[name](images, targets)
        if isinstance(found, Tensor):
            count, masks = seen[0] / len(images), found
            if larger:
                above = extremal_masks(classifier, images, targets, larger, config.extremal_steps)
                masks = torch.cat([masks, above], 1)
        else:
            # Two passes report what the mask of one area keeps and what is left without it.
            count, masks = seen[0] / len(images) - 2, found.by_area([*areas, *larger])
        print(f"{TITLES[name].format(**vars(config))}: {count:.1f} passes an image")
        _describe(masks, areas)
        _print_kept(shown, masks[:, : len(areas)], areas, unique)
        if config.repeats:
            _time(ways[name], images, targets, config.repeats, device)
    for label, reason in left_out.items():
        print(f"{label}: left out, {reason}")
    batch = Batch([str(file) for file in files], images, targets, read_logits(classifier, logits, targets))
    for method in methods:
        with passes_counted(classifier) as seen:
            maps = method.make(classifier, images, targets, batch)
        print(f"{method.label}: {seen[0] / len(images):.1f} passes an image, its map cut at the areas")
        _print_kept(shown, maps.expand(-1, len(areas), -1, -1), areas, unique)


def amortised_inr(checkpoint: str, config: ClassifierConfig, device: torch.device) -> INRExplainer:
    """The checkpoint's network, with the configuration's weights and precision of the classifier.

    Raises:
        InputError: see `ltx.load`; or it is no INR.
    """
    loaded = load(checkpoint, device=device, weights=config.weights, precision=config.precision)
    if not isinstance(loaded, INRExplainer):
        raise InputError(f"checkpoint={checkpoint} holds no INR; train one with explainer.name=inr")
    return loaded


def _unasked(areas: Tensor, size: tuple[int, int] | None) -> Tensor:
    raise NotImplementedError


def _describe(masks: Tensor, areas: list[float]) -> None:
    """Print what masks `[B, A or 2 A, H, W]` of some areas, and then of those 0.01 larger, are like."""
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
            f"  from an area to one 0.01 larger: mean change {float(change.mean()):.4f}, in the worst mask "
            f"{float(change.mean((2, 3)).max()):.4f}, there {most:.4f} of the pixels by more than a half"
        )


def _print_kept(shown: AreaMasks, maps: Tensor, areas: list[float], unique: list[bool]) -> None:
    """Print the class's probability under maps `[B, A, H, W]`, each cut to its area's highest pixels.

    Means, with half their 95 % intervals, over the images that are no repetition.
    """
    count = maps.shape[-2] * maps.shape[-1]
    ranks = maps.flatten(2).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    hard = (ranks < (maps.new_tensor(areas) * count).round()[:, None]).to(maps).view_as(maps)
    kept = shown.kept(hard)[torch.tensor(unique, device=hard.device)]
    spread = 1.96 * kept.std(0, correction=min(1, len(kept) - 1)) / len(kept) ** 0.5
    parts = zip(areas, kept.mean(0).tolist(), spread.tolist(), strict=True)
    print("  kept probability: " + ", ".join(f"{a:g}: {value:.3f} +- {e:.3f}" for a, value, e in parts), flush=True)


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
