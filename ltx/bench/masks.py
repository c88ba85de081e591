"""Probabilities that a checkpoint's masks keep and remove, before and after finetuning, and masks of mosaics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.bench.settings import MasksBench
from ltx.checkpoints.loading import load
from ltx.data.finding import find_images
from ltx.data.image_batches import ImageBatches
from ltx.explainers.mask_network import MaskNetwork
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.finetuning.training_defaults import trained_objective
from ltx.objectives.objective import Objective
from ltx.runtime.devices import pick_device


def measure(config: MasksBench) -> None:
    """Print the mean kept and removed probability, relative to the full image, the mask mean, and shares in mosaics."""
    device = pick_device(config.device)
    explainer = load(config.checkpoint, device=device, weights=config.weights, precision=config.precision)
    classifier = explainer.classifier
    files = find_images(config.images)[: config.limit]
    source = ImageBatches(files, classifier.input_size, config.batch_size, channels=classifier.channels)
    batches = [pixels for _, pixels in source]
    if source.skipped:
        print(source.skipped.summary())
    count = sum(map(len, batches))
    settings = FinetuneSettings(
        scope=config.scope,
        lr=config.lr,
        objective=Objective(trained_objective(explainer, config.area_weight)),
        fill=config.fill,
        max_batch=config.batch_size,
        seed=config.seed,
    )
    print(f"{config.checkpoint}: {classifier.name}, {count} images, fill {config.fill}, target predicted", flush=True)
    print("steps | kept/full  removed/full  mask mean | share of images with kept/full >= 0.8 | s/image")
    for steps in config.steps:
        rows, seconds = [], 0.0
        for pixels in batches:
            explanation = finetune(
                explainer,
                pixels.to(device),
                steps=steps,
                settings=settings,
            )
            seconds += explanation.seconds * len(pixels)
            assert explanation.probability_kept is not None
            assert explanation.probability_removed is not None
            assert explanation.mask is not None
            kept = explanation.probability_kept / explanation.probability
            removed = explanation.probability_removed / explanation.probability
            rows.append(torch.stack([kept, removed, explanation.mask.mean((1, 2, 3)), (kept >= 0.8).float()], 1).cpu())
        kept, removed, mean, share = torch.cat(rows).mean(0).tolist()
        print(
            f"{steps:5d} | {kept:9.3f}  {removed:12.3f}  {mean:9.3f} | {share:37.2f} | {seconds / count:.3f}",
            flush=True,
        )
    if config.mosaics:
        report_mosaics(explainer, torch.cat(batches).to(device), config)


@torch.no_grad()
def report_mosaics(explainer: MaskNetwork, images: Tensor, config: MasksBench) -> None:
    """Explain the class of each photograph of mosaics of two; print the share of the mask in that photograph's half."""
    classifier = explainer.classifier
    predicted = torch.cat([classifier(part).argmax(1) for part in images.split(config.batch_size)]).cpu()
    if len(predicted.unique()) < 2:
        print("no mosaics: they need photographs of two predicted classes")
        return
    generator = torch.Generator().manual_seed(config.seed)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < config.mosaics:
        first, second = torch.randint(len(images), (2,), generator=generator).tolist()
        if predicted[first] != predicted[second]:
            pairs.append((first, second))
    height, width = images.shape[-2:]
    half = F.interpolate(images, (height, width // 2), mode="bilinear", antialias=True)
    shares = []
    for start in range(0, len(pairs), config.batch_size):
        left, right = torch.tensor(pairs[start : start + config.batch_size]).T
        both = torch.cat([half[left], half[right]], 3)
        for explained, inside in ((left, slice(0, width // 2)), (right, slice(width // 2, width))):
            mask = explainer.explain(both, predicted[explained].to(images.device)).mask
            assert mask is not None
            shares.append(mask[..., inside].sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1e-6))
    share = torch.cat(shares)
    print(
        f"mosaics of two photographs: {len(pairs)} pairs, the class of each half explained: on average "
        f"{float(share.mean()):.3f} of the mask lies in that half; in {float((share > 0.5).float().mean()):.2f} of "
        f"{len(share)} masks more than half of it does"
    )
