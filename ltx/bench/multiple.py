"""Mosaics of two photographs of one class: does the search for several explanations find both?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.attribution.inr import area_objective, fit_inr
from ltx.checkpoints import load
from ltx.classifier import Classifier, pick_device
from ltx.config import ClassifierConfig, option, run
from ltx.data.images import ImageBatches, find_images
from ltx.errors import InputError
from ltx.explainers.inr import INRExplainer
from ltx.explanation import Explanation
from ltx.fill import Fill, keep
from ltx.finetuning import finetune
from ltx.multiple import REACHES, Fit, MultipleExplanations, multiple_explanations

WITHIN = 0.8
"""A mask has found a photograph if so much of what it keeps lies there."""


@dataclass
class BenchConfig:
    """What is measured."""

    checkpoint: str | None = option(None, help="amortised INR that train.py wrote; null = one is fitted to each mosaic")
    classifier: ClassifierConfig = option(ClassifierConfig, help="the explained model, where checkpoint is null")
    weights: str | None = option(None, help="the classifier's weights, if not where they were in training")
    precision: str = option("fp32", help="of a checkpoint's classifier", choices=["fp32", "bf16"])
    images: Any = option("scikit-image", help="photographs, some of the same predicted class")
    mosaics: int = option(50, help="pairs side by side, each of which is sufficient on its own")
    steps: int = option(25, help="optimiser steps for each explanation; with a checkpoint 0 = one pass")
    share: float = option(0.9, help="of the probability that an explanation must keep")
    most: int = option(4, help="explanations of a mosaic, at most")
    reaches: list[float] = option(
        list(REACHES), help="masks also gather around the most important place, so far; [] = they do not"
    )
    largest: float = option(0.5, help="no larger area is an explanation")
    batch_size: int = option(10, help="mosaics at once")
    gallery: int = option(8, help="pictures written")
    seed: int = option(0, help="of the pairs")
    device: str = option("auto", help="auto, cpu, cuda, …")
    out: str = option("runs/multiple", help="folder of the pictures")


def measure(config: BenchConfig) -> None:
    """Print how often an explanation lies in either photograph, among the first two and among all."""
    if config.mosaics < 1 or config.batch_size < 1 or config.steps < 0 or (not config.checkpoint and not config.steps):
        raise InputError(
            f"mosaics={config.mosaics}, batch_size={config.batch_size}, steps={config.steps}; need mosaics and "
            "batch_size >= 1, and steps >= 1 where no checkpoint is given"
        )
    device = pick_device(config.device)
    explainer, objective = None, area_objective("preserve", "log_probability")
    if config.checkpoint is not None:
        loaded = load(config.checkpoint, device=device, weights=config.weights, precision=config.precision)
        if not isinstance(loaded, INRExplainer):
            raise InputError(f"checkpoint={config.checkpoint} holds no INR; train one with explainer.name=inr")
        explainer = loaded
    classifier = config.classifier.build().to(device) if explainer is None else explainer.classifier
    images, targets, tried = sufficient_pairs(classifier, config)
    print(
        f"{classifier.name}, {device}: {len(images)} mosaics of two photographs of one predicted class, either of them "
        f"sufficient for {config.share:g} of the probability ({tried} pairs tried), fill blur, seed {config.seed}",
        flush=True,
    )

    def fit(seen: Tensor, asked: Tensor, allowed: Tensor | None = None) -> Explanation:
        if explainer is None:
            return fit_inr(classifier, seen, asked, steps=config.steps, allowed=allowed)
        return finetune(explainer, seen, asked, config.steps, objective=objective, fill="blur", allowed=allowed)

    found = [
        _explained(part, asked, fit, config)
        for part, asked in zip(images.split(config.batch_size), targets.split(config.batch_size), strict=True)
    ]
    _report(found)
    pictures = [each.plot(row) for each in found for row in range(len(each.masks))][: config.gallery]
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        picture.savefig(folder / f"mosaic_{index:03d}.png")
    if pictures:
        print(f"wrote {len(pictures)} pictures below {folder}")


def _explained(images: Tensor, targets: Tensor, fit: Fit, config: BenchConfig) -> MultipleExplanations:
    everywhere = torch.ones_like(images[:, :1])
    return multiple_explanations(
        fit(images, targets, everywhere),
        fit,
        config.most,
        share=config.share,
        largest=config.largest,
        reaches=config.reaches,
    )


@torch.no_grad()
def sufficient_pairs(classifier: Classifier, config: BenchConfig) -> tuple[Tensor, Tensor, int]:
    """Mosaics `[N, 3, H, W]`, their classes `[N]`, and how many pairs were tried.

    Two photographs of one predicted class side by side, squeezed to half their width. The mosaic must be of that class
    too, and must keep `share` of its probability with either half blurred.

    Raises:
        InputError: not as many such pairs.
    """
    files = find_images(config.images)
    batches = ImageBatches(files, classifier.input_size, 16)
    photographs = torch.cat([pixels for _, pixels in batches])
    height, width = classifier.input_size
    half = F.interpolate(photographs, (height, width // 2), mode="bilinear", antialias=True).clamp(0, 1)
    predicted = torch.cat([classifier(part.to(classifier.device)).argmax(1).cpu() for part in photographs.split(16)])
    same = (predicted[:, None] == predicted[None, :]).triu(1).nonzero()
    same = same[torch.randperm(len(same), generator=torch.Generator().manual_seed(config.seed))]
    blur = Fill("blur")
    left = (torch.arange(width, device=classifier.device) < width // 2).float().view(1, 1, 1, -1)
    found: list[Tensor] = []
    classes: list[int] = []
    for tried, (first, second) in enumerate(same.tolist(), start=1):
        mosaic = torch.cat([half[first], half[second]], 2)[None].to(classifier.device)
        mosaic = F.interpolate(mosaic, (height, width))  # an odd width loses a column to the halves
        background = blur(mosaic, torch.Generator().manual_seed(0))
        seen = torch.cat([mosaic, keep(mosaic, left, background), keep(mosaic, 1 - left, background)])
        logits = classifier(seen)
        target = int(predicted[first])
        whole, *halves = classifier.probabilities(logits)[:, target].tolist()
        if int(logits[0].argmax()) != target or min(halves) < config.share * whole:
            continue
        found.append(mosaic)
        classes.append(target)
        if len(found) == config.mosaics:
            return torch.cat(found), torch.tensor(classes, device=classifier.device), tried
    raise InputError(
        f"images={config.images}: {len(found)} of {len(same)} pairs of one predicted class are sufficient on either "
        f"side, mosaics={config.mosaics} are asked for; give more photographs of a class, or fewer mosaics"
    )


def _report(found: list[MultipleExplanations]) -> None:
    counts = torch.cat([each.count for each in found])
    first, every, shares, remaining = [], [], [], []
    for each in found:
        kept = (each.masks >= 0.5).float()
        middle = kept.shape[-1] // 2
        whole = kept.sum((2, 3))
        left = kept[..., :middle].sum((2, 3)) / whole.clamp_min(1)
        there = torch.stack([left >= WITHIN, (left <= 1 - WITHIN) & (whole > 0)], -1)  # [B, K, 2]
        first.append(there[:, :2].any(1).all(1))
        every.append(there.any(1).all(1))
        shares.append(torch.maximum(left, 1 - left)[whole > 0])
        remaining.append(each.remaining)
    total = len(counts)
    both, any_two = int(torch.cat(first).sum()), int(torch.cat(every).sum())
    print(f"both photographs found by the first two explanations: {both} of {total}; by all of them: {any_two}")
    listed = ", ".join(f"{number}: {int((counts == number).sum())}" for number in range(int(counts.max()) + 1))
    print(f"mosaics by number of explanations: {listed}")
    print(f"an explanation's share in its own half: {float(torch.cat(shares).mean()):.3f}", end="; ")
    print(f"left without all explanations: {float(torch.cat(remaining).mean()):.3f} of the probability")


def main(argv: list[str]) -> None:
    """`python -m ltx.bench multiple`."""
    run(measure, BenchConfig, "python -m ltx.bench multiple", "Does the search find both of two photographs?", argv)
