"""A mask beside a prediction; finetuning many images at once beside one by one, and a step beside its floor."""

from __future__ import annotations

import torch

from ltx.bench.passes import passes_counted
from ltx.bench.settings import FinetuneBench
from ltx.bench.timing import median_ratio, medians, take_turns
from ltx.checkpoints.folder import load
from ltx.classifier.classifier import CPU_ROWS
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.finetuning.finetune import finetune
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError


def measure(config: FinetuneBench) -> None:
    """Print mask ÷ prediction, the time of both ways to finetune, their ratio and difference, and step ÷ floor."""
    if min(config.count, config.steps, config.repeats) < 1:
        raise InputError("count, steps and repeats must be positive")
    device = pick_device(config.device)
    if config.checkpoint is None:
        torch.manual_seed(0)
        explainer = config.explainer.build(config.classifier.build().to(device)).to(device).eval()
    else:
        explainer = load(config.checkpoint, device=device, weights=config.weights)
    classifier = explainer.classifier.fold_norms()  # as finetune.py does
    files = find_images(config.images)
    files = (files * (1 + config.count // len(files)))[: config.count]
    images = load_images(files, classifier.input_size).to(device)
    steps, scope = config.steps, config.scope
    masks: dict[str, torch.Tensor] = {}

    def at_once() -> None:
        found = finetune(explainer, images, steps=steps, scope=scope, max_batch=len(images))
        masks["at once"] = found.maps

    def one_by_one() -> None:
        parts = [finetune(explainer, image[None], steps=steps, scope=scope).maps for image in images]
        masks["one by one"] = torch.cat(parts)

    def no_steps() -> None:
        finetune(explainer, images, steps=0, scope=scope, max_batch=len(images))

    masked_images = torch.cat([images, 1 - images])

    def floor() -> None:
        rows = CPU_ROWS if device.type == "cpu" else len(masked_images)
        pixels = masked_images.clone().requires_grad_()
        torch.cat([classifier(part) for part in pixels.split(rows)]).logsumexp(1).sum().backward()

    @torch.no_grad()
    def predicted() -> None:
        classifier(images)

    @torch.no_grad()
    def explained() -> None:
        explainer(images)

    seen = {}
    for name, way in (("at once", at_once), ("no steps", no_steps)):
        with passes_counted(classifier) as counted:
            way()
        seen[name] = counted[0]
    asked = (seen["at once"] - seen["no steps"]) / steps / len(images)
    ways = {"predicted": predicted, "explained": explained}
    ways |= {"at once": at_once, "one by one": one_by_one, "no steps": no_steps, "floor": floor}
    seconds = take_turns(ways, config.repeats, device)
    found = medians(seconds)
    step = [(whole - rest) / steps for whole, rest in zip(seconds["at once"], seconds["no steps"], strict=True)]
    difference = (masks["at once"] - masks["one by one"]).abs()
    print(
        f"{classifier.name}, {type(explainer).__name__}, {len(images)} images, {steps} steps, scope {scope}, {device}"
    )
    ratio = median_ratio(seconds["explained"], seconds["predicted"])
    print(f"  {1000 * found['predicted']:8.1f} ms the classifier's prediction")
    print(f"  {1000 * found['explained']:8.1f} ms prediction and mask = {ratio:.2f} x")
    print(f"  {found['at once']:8.2f} s  at once")
    print(
        f"  {found['one by one']:8.2f} s  one by one = {median_ratio(seconds['one by one'], seconds['at once']):.2f} x"
    )
    print(
        f"  difference of the masks between the two ways: mean {difference.mean():.1e}, largest {difference.max():.1e}"
    )
    print(f"  {1000 * found['floor']:8.1f} ms floor: the classifier, kept and removed, forwards and backwards")
    ratio = median_ratio(step, seconds["floor"])
    print(
        f"  a step costs {ratio:.2f} x that floor, {2 * ratio / asked:.2f} x the passes over its {asked:g} "
        "masked images"
    )
