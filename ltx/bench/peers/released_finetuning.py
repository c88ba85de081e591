"""Finetuning in the manner of the released LTX code: one image at a time, each with a full copy of the trunk."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx.bench.peers.pair import Inputs, Pair, correlation
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.metrics.perturbation import curves
from ltx.objectives.area import Area
from ltx.objectives.keep import Keep
from ltx.objectives.objective import Objective
from ltx.objectives.remove import Remove
from ltx.objectives.settings import ObjectiveConfig
from ltx.objectives.smoothness import Smoothness

STEPS = 3
LR = 1e-4
AREA_WEIGHT = 50.0
FRACTIONS = [step / 10 for step in range(10)]


def released_finetuning(metric_after_each_step: bool) -> Callable[[Inputs], Pair]:
    """Batched finetuning of the released head, objective and trunk, next to the loop over images."""

    def build(inputs: Inputs) -> Pair:
        classifier, images, targets = inputs.classifier, inputs.images, inputs.targets
        name = "vit" if classifier.num_prefix_tokens else "unet"
        torch.manual_seed(0)
        explainer = ExplainerConfig(name=name, variant="released", trunk="copy", conditioned=False).build(classifier)
        explainer = explainer.to(inputs.device).eval()
        objective = Objective(
            ObjectiveConfig(
                keep=Keep(weight=1.0, kind="cross_entropy"),
                remove=Remove(weight=0.0),
                area=Area(weight=AREA_WEIGHT, kind="released"),
                smoothness=Smoothness(weight=0.0),
            )
        )
        select_by = "positive" if metric_after_each_step else None

        def ours() -> Tensor:
            settings = FinetuneSettings(
                scope="all", lr=LR, objective=objective, select_by=select_by, max_batch=len(images)
            )
            return finetune(explainer, images, targets, STEPS, settings).maps

        def theirs() -> Tensor:
            pairs = zip(images, targets, strict=True)
            return torch.cat([_finetune_one(explainer, x[None], y[None], metric_after_each_step) for x, y in pairs])

        metric = "with POS after each step" if metric_after_each_step else "without metrics"
        return Pair(
            ours,
            theirs,
            f"released head and objective, whole trunk, {STEPS} steps, {metric}; the loop explains one image at a time "
            "(transcription of the released code)",
            correlation,
        )

    return build


def _finetune_one(explainer: MaskNetwork, image: Tensor, target: Tensor, metric: bool) -> Tensor:
    """The released loop: a copy of the whole explainer, AdamW, cross-entropy of the masked image plus the area."""
    classifier, network = explainer.classifier, copy.deepcopy(explainer)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(parameters, lr=LR)
    best, best_mask = float("inf"), torch.zeros_like(image[:, :1])

    def predict() -> Tensor:
        mask: Tensor = network.upsample(network.decode(network.encode(image), target))
        return mask

    for _ in range(STEPS):
        mask = predict()
        loss = F.cross_entropy(classifier(image * mask), target) + AREA_WEIGHT * mask.exp().log1p().mean()
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        if metric:
            with torch.no_grad():
                mask = predict()
            background = torch.zeros_like(image)
            curve = curves(classifier, image, mask, target, FRACTIONS, background, orders=["highest"])["highest"]
            area = float(100 * torch.trapezoid(curve.correct.float(), dx=0.1, dim=1))
            if area < best:
                best, best_mask = area, mask
    if metric:
        return best_mask
    with torch.no_grad():
        return predict()
