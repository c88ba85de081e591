"""Search for multiple explanations on mosaics of two photographs of one class: how often it finds both."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.analysis.multiple_explanations import (
    REACHES,
    Fit,
    MultipleExplanations,
    SearchSettings,
    multiple_explanations,
)
from ltx.attribution.inr import INRFit, area_objective, fit_inr
from ltx.bench.inr import amortised_inr
from ltx.bench.settings import MultipleBench
from ltx.classifier.classifier import Classifier
from ltx.data.finding import find_images
from ltx.data.image_batches import ImageBatches
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.masking.fill import Fill, keep
from ltx.results.explanation import Explanation
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError

WITHIN = 0.8
"""A mask matches a photograph if at least this share of its kept pixels lies in it."""


def measure(config: MultipleBench) -> None:
    """Print how often the explanations match both photographs, among the first two and among all."""
    if config.mosaics < 1 or config.batch_size < 1 or config.steps < 0 or (not config.checkpoint and not config.steps):
        raise InputError(
            f"mosaics={config.mosaics}, batch_size={config.batch_size}, steps={config.steps}; need mosaics and "
            "batch_size >= 1, and steps >= 1 where no checkpoint is given"
        )
    device = pick_device(config.device)
    explainer = None
    settings = FinetuneSettings(objective=area_objective("preserve", "log_probability"), fill="blur")
    if config.checkpoint is not None:
        explainer = amortised_inr(config.checkpoint, config.classifier, device)
    classifier = config.classifier.build().to(device) if explainer is None else explainer.classifier
    classifier.fold_norms()
    images, targets, tried = sufficient_pairs(classifier, config)
    print(
        f"{classifier.name}, {device}: {len(images)} of {config.mosaics} mosaics of two photographs of one predicted "
        f"class, each sufficient for {config.share:g} of the probability ({tried} pairs tried), fill blur, "
        f"seed {config.seed}",
        flush=True,
    )

    def fit(pixels: Tensor, classes: Tensor, allowed: Tensor | None = None) -> Explanation:
        if explainer is None:
            return fit_inr(classifier, pixels, classes, INRFit(steps=config.steps), allowed=allowed)
        return finetune(explainer, pixels, classes, config.steps, settings, allowed=allowed)

    explanations = [
        _explain(part, classes, fit, config)
        for part, classes in zip(images.split(config.batch_size), targets.split(config.batch_size), strict=True)
    ]
    _report(explanations)
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(each, row) for each in explanations for row in range(len(each.masks))][: config.gallery]
    for index, (each, row) in enumerate(rows):
        each.plot(row).savefig(folder / f"mosaic_{index:03d}.png")
    print(f"wrote {len(rows)} pictures below {folder}")


def _explain(images: Tensor, targets: Tensor, fit: Fit, config: MultipleBench) -> MultipleExplanations:
    everywhere = torch.ones_like(images[:, :1])
    reaches = REACHES if config.reaches is None else config.reaches
    settings = SearchSettings(config.most, config.share, config.largest, reaches=reaches)
    return multiple_explanations(fit(images, targets, everywhere), fit, settings)


@torch.no_grad()
def sufficient_pairs(classifier: Classifier, config: MultipleBench) -> tuple[Tensor, Tensor, int]:
    """Build mosaics of two photographs of one predicted class, each of which is sufficient for the class.

    The photographs are placed side by side at half their width. The mosaic must have the same predicted class, and
    must keep `share` of its probability if either half is blurred.

    Returns:
        Up to `mosaics` mosaics `[N, 3, H, W]`, their classes `[N]`, and the number of pairs tried.

    Raises:
        InputError: no such pair.
    """
    height, width = classifier.input_size
    halves: list[Tensor] = []
    by_class: dict[int, list[int]] = {}
    batches = ImageBatches(find_images(config.images), classifier.input_size, 16, channels=classifier.channels)
    for _, pixels in batches:
        for label in classifier(pixels.to(classifier.device)).argmax(1).tolist():
            by_class.setdefault(label, []).append(sum(map(len, by_class.values())))
        halves += F.interpolate(pixels, (height, width // 2), mode="bilinear", antialias=True).clamp(0, 1)
    if batches.skipped:
        print(batches.skipped.summary())
    pairs = [(label, *pair) for label, members in by_class.items() for pair in combinations(members, 2)]
    random.Random(config.seed).shuffle(pairs)
    blur = Fill("blur")
    left = (torch.arange(width, device=classifier.device) < width // 2).float().expand(1, 1, height, width)
    mosaics: list[Tensor] = []
    classes: list[int] = []
    tried = 0
    for target, first, second in pairs:
        if len(mosaics) == config.mosaics:
            break
        tried += 1
        mosaic = torch.cat([halves[first], halves[second]], 2)[None].to(classifier.device)
        mosaic = F.interpolate(mosaic, (height, width))  # two halves of an odd width are one column short
        background = blur(mosaic, torch.Generator().manual_seed(0))
        masked = [keep(mosaic, left, background), keep(mosaic, 1 - left, background)]
        logits = classifier(torch.cat([mosaic, *masked]))
        full, *halves_only = classifier.probabilities(logits)[:, target].tolist()
        if int(logits[0].argmax()) == target and min(halves_only) >= config.share * full:
            mosaics.append(mosaic)
            classes.append(target)
    if not mosaics:
        raise InputError(
            f"images={config.images}: none of {len(pairs)} pairs of one predicted class is sufficient on either side; "
            "give several photographs of a class"
        )
    return torch.cat(mosaics), torch.tensor(classes, device=classifier.device), tried


def _report(explanations: list[MultipleExplanations]) -> None:
    counts = torch.cat([each.count for each in explanations])
    first, every, shares, remaining = [], [], [], []
    for each in explanations:
        kept = (each.masks >= 0.5).float()
        middle = kept.shape[-1] // 2
        area = kept.sum((2, 3))
        left = kept[..., :middle].sum((2, 3)) / area.clamp_min(1)
        matches = torch.stack([left >= WITHIN, (left <= 1 - WITHIN) & (area > 0)], -1)  # [B, K, 2]
        first.append(matches[:, :2].any(1).all(1))
        every.append(matches.any(1).all(1))
        shares.append(torch.maximum(left, 1 - left)[area > 0])
        remaining.append(each.remaining)
    total = len(counts)
    both, any_two = int(torch.cat(first).sum()), int(torch.cat(every).sum())
    print(f"both photographs found by the first two explanations: {both} of {total}; by all of them: {any_two}")
    listed = ", ".join(f"{number}: {int((counts == number).sum())}" for number in range(int(counts.max()) + 1))
    print(f"mosaics by number of explanations: {listed}")
    print(f"mean share of an explanation in one half: {float(torch.cat(shares).mean()):.3f}", end="; ")
    print(f"probability that remains without all explanations: {float(torch.cat(remaining).mean()):.3f}")
