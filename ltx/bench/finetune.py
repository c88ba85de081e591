"""Cost of a mask and of finetuning: batched against one by one, and each step next to its lower bound."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ltx.bench.passes import passes_counted
from ltx.bench.settings import FinetuneBench
from ltx.bench.timing import median_ratio, medians, take_turns
from ltx.checkpoints.loading import load
from ltx.classifier.classifier import CPU_ROWS
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.explainers.mask_network import MaskNetwork
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError


def measure(config: FinetuneBench) -> None:
    """Print the time of a mask relative to a prediction, of batched and single finetuning, and of a finetuning step."""
    if min(config.count, config.steps, config.repeats) < 1:
        raise InputError("count, steps and repeats must be positive")
    device = pick_device(config.device)
    if config.checkpoint is None:
        torch.manual_seed(0)
        explainer = config.explainer.build(config.classifier.build().to(device)).to(device).eval()
    else:
        explainer = load(config.checkpoint, device=device, weights=config.weights, precision=config.precision)
    classifier = explainer.classifier.fold_norms()  # as `ltx finetune` does
    files = find_images(config.images)
    files = (files * (1 + config.count // len(files)))[: config.count]
    images = load_images(files, classifier.input_size, channels=classifier.channels).to(device)
    masks: dict[str, Tensor] = {}
    ways = _ways(explainer, images, config, masks)
    passes = {}
    for name in ("at once", "no steps"):
        with passes_counted(classifier) as counter:
            ways[name]()
        passes[name] = counter[0]
    masked_images = (passes["at once"] - passes["no steps"]) / config.steps / len(images)
    seconds = take_turns(ways, config.repeats, device)
    median = medians(seconds)
    total, rest = seconds["at once"], seconds["no steps"]
    step = [(a - b) / config.steps for a, b in zip(total, rest, strict=True)]
    difference = (masks["at once"] - masks["one by one"]).abs()
    setting = f"{len(images)} images, {config.steps} steps, scope {config.scope}, {device}"
    print(f"{classifier.name} in {classifier.precision}, {type(explainer).__name__}, {setting}")
    ratio = median_ratio(seconds["explain"], seconds["predict"])
    print(f"  {1000 * median['predict']:8.1f} ms the classifier's prediction")
    print(f"  {1000 * median['explain']:8.1f} ms prediction and mask = {ratio:.2f} x")
    print(f"  {median['at once']:8.2f} s  finetuning in one batch")
    ratio = median_ratio(seconds["one by one"], total)
    print(f"  {median['one by one']:8.2f} s  finetuning one by one = {ratio:.2f} x")
    print(f"  difference of the masks between the two: mean {difference.mean():.1e}, largest {difference.max():.1e}")
    print(f"  {1000 * median['bound']:8.1f} ms lower bound: the classifier, kept and removed, forward and backward")
    ratio = median_ratio(step, seconds["bound"])
    print(
        f"  a step costs {ratio:.2f} x that bound, {2 * ratio / masked_images:.2f} x the passes over its "
        f"{masked_images:g} masked images"
    )


def _ways(
    explainer: MaskNetwork, images: Tensor, config: FinetuneBench, masks: dict[str, Tensor]
) -> dict[str, Callable[[], None]]:
    """What is timed, by name; finetuning stores its masks in `masks`."""
    classifier, steps = explainer.classifier, config.steps
    settings = FinetuneSettings(scope=config.scope, max_batch=len(images))
    masked_images = torch.cat([images, 1 - images])

    @torch.no_grad()
    def predict() -> None:
        classifier(images)

    @torch.no_grad()
    def explain() -> None:
        explainer(images)

    def at_once() -> None:
        masks["at once"] = finetune(explainer, images, steps=steps, settings=settings).maps

    def one_by_one() -> None:
        parts = [finetune(explainer, image[None], steps=steps, settings=settings).maps for image in images]
        masks["one by one"] = torch.cat(parts)

    def no_steps() -> None:
        finetune(explainer, images, steps=0, settings=settings)

    def bound() -> None:
        rows = CPU_ROWS if images.device.type == "cpu" else len(masked_images)
        pixels = masked_images.clone().requires_grad_()
        torch.cat([classifier(part) for part in pixels.split(rows)]).logsumexp(1).sum().backward()

    return {
        "predict": predict,
        "explain": explain,
        "at once": at_once,
        "one by one": one_by_one,
        "no steps": no_steps,
        "bound": bound,
    }
