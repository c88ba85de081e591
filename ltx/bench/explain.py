"""Cost of a mask: the explainer's forward pass and its explanation, relative to one pass of the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ltx.bench.settings import ExplainBench
from ltx.bench.timing import median_ratio, medians, take_turns
from ltx.checkpoints.loading import load
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.explainers.mask_network import MaskNetwork
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError

TITLES = {
    "predict": "prediction of the classifier",
    "mask": "prediction and mask",
    "explain": "explain()",
    "probabilities": "explain() and the probabilities of the kept and the removed pixels",
    "decode": "decoder alone",
}


def measure(config: ExplainBench) -> None:
    """Print the time of a mask and of an explanation relative to a prediction, for each precision."""
    if min(config.count, config.repeats) < 1:
        raise InputError(f"count={config.count}, repeats={config.repeats}; give 1 or more")
    device = pick_device(config.device)
    masks: dict[str, Tensor] = {}
    for precision in config.precisions:
        explainer = load(config.checkpoint, device=device, weights=config.weights, precision=precision)
        classifier = explainer.classifier.fold_norms()  # as `ltx finetune` does
        files = find_images(config.images)
        files = (files * (1 + config.count // len(files)))[: config.count]
        images = load_images(files, classifier.input_size, channels=classifier.channels).to(device)
        seconds = take_turns(_ways(explainer, images), config.repeats, device)
        with torch.no_grad():
            masks[precision] = explainer(images)
        print(f"{classifier.name}, {type(explainer).__name__}, {precision}, {len(images)} images, {device}")
        _print_ratios(seconds)
    if "fp32" in masks and "bf16" in masks:
        difference = (masks["bf16"] - masks["fp32"]).abs()
        print(f"masks, bf16 - fp32: mean {difference.mean():.1e}, largest {difference.max():.1e}")


def _ways(explainer: MaskNetwork, images: Tensor) -> dict[str, Callable[[], object]]:
    classifier = explainer.classifier

    @torch.no_grad()
    def predict() -> Tensor:
        return classifier(images)

    @torch.no_grad()
    def mask() -> Tensor:
        output: Tensor = explainer(images)
        return output

    def probabilities() -> tuple[Tensor | None, Tensor | None]:
        explanation = explainer.explain(images)
        return explanation.probability_kept, explanation.probability_removed

    with torch.no_grad():
        logits, features = explainer.predict_and_encode(images)
    targets = logits.argmax(1)

    @torch.no_grad()
    def decode() -> Tensor:
        return explainer.upsample(explainer.decode(features, targets))

    return {
        "predict": predict,
        "mask": mask,
        "explain": lambda: explainer.explain(images),
        "probabilities": probabilities,
        "decode": decode,
    }


def _print_ratios(seconds: Mapping[str, list[float]]) -> None:
    for name, median in medians(seconds).items():
        ratio = median_ratio(seconds[name], seconds["predict"])
        print(f"  {1000 * median:8.1f} ms  {ratio:5.2f} x  {TITLES[name]}", flush=True)
