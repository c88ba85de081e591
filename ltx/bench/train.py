"""A training step next to the sum of its parts."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ltx.bench.settings import TrainBench
from ltx.bench.timing import medians, take_turns
from ltx.classifier.classifier import CPU_ROWS
from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.fill import Fill
from ltx.objectives.objective import Objective
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.settings import OptimiserConfig
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError

STEP, CLASSIFIER = "step", "classifier"


def measure(config: TrainBench) -> None:
    """Print the time of a complete step, of each part alone, and step ÷ sum of the parts."""
    if min(config.batch_size, config.repeats) < 1:
        raise InputError("batch_size and repeats must be positive")
    device = pick_device(config.device)
    classifier = config.classifier.build().to(device)
    torch.manual_seed(0)
    explainer = config.explainer.build(classifier)
    candidates = step_and_parts(explainer, Objective(config.objective), Fill(config.fill), config.batch_size, device)
    seconds = medians(take_turns(candidates, config.repeats, device))
    step = seconds.pop(STEP)
    print(f"{classifier.name}, batch {config.batch_size}, {device}, median of {config.repeats} runs")
    for name, value in seconds.items():
        print(f"  {1000 * value:9.1f} ms  {name}")
    print(f"  {1000 * sum(seconds.values()):9.1f} ms  sum of the parts")
    print(f"  {1000 * step:9.1f} ms  training step = {step / sum(seconds.values()):.3f} x the sum of its parts")


def step_and_parts(
    explainer: MaskNetwork, objective: Objective, fill: Fill, batch_size: int, device: torch.device
) -> dict[str, Callable[[], None]]:
    """A complete training step (`STEP`) on noise images, and each of its parts alone.

    Names that start with `CLASSIFIER` are parts of the classifier. The classifier must already be on the device.
    """
    classifier = explainer.classifier
    module = LTXPretraining(explainer.to(device).train(), objective, fill, OptimiserConfig(), max_steps=1000)
    parameters = [p for p in explainer.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(parameters, lr=1e-6)
    images = torch.rand(batch_size, classifier.channels, *classifier.input_size, device=device)
    with torch.no_grad():
        masked, verdict = module.evaluate_objective(images, torch.Generator().manual_seed(0))
        unmasked_logits, features = explainer.predict_and_encode(images)
        gradient = torch.ones_like(masked.mask) / masked.mask.numel()
    targets = unmasked_logits.argmax(1)
    masked_images = torch.rand(len(verdict.logits) * len(images), *images.shape[1:], device=device)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adamw.step()
        adamw.zero_grad()

    def step() -> None:
        _, verdict = module.evaluate_objective(images, torch.Generator().manual_seed(0))
        verdict.loss.mean().backward()
        update()

    def explainer_alone() -> None:
        encoded = features if explainer.shares_trunk else explainer.encode(images)
        explainer.upsample(explainer.decode(encoded, targets)).backward(gradient)
        update()

    def classifier_unmasked() -> None:
        with torch.no_grad():
            if explainer.shares_trunk:
                classifier.logits_and_features(images, explainer.stages)
            else:
                classifier(images)

    def classifier_masked() -> None:
        rows = CPU_ROWS if device.type == "cpu" else len(masked_images)
        pixels = masked_images.detach().requires_grad_()
        torch.cat([classifier(part) for part in pixels.split(rows)]).logsumexp(1).sum().backward()

    return {
        STEP: step,
        "explainer, forward and backward": explainer_alone,
        f"{CLASSIFIER}, full images": classifier_unmasked,
        f"{CLASSIFIER}, {len(verdict.logits)} masked images per image, forward and backward": classifier_masked,
    }
