"""Attribution maps of image files, written as explanations."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ltx.attribution.registry import METHODS, attribute, check_method, check_options
from ltx.classifier.class_names import Target
from ltx.classifier.classifier import pick_device
from ltx.config.command_line import ClassifierConfig
from ltx.config.options import option
from ltx.results.explanation import Explanation
from ltx.results.streaming import WRITTEN, ExplainConfig, explain_files


@dataclass
class AttributeConfig(ExplainConfig):
    """Which method explains what, and where the maps go."""

    method: str = option("iia2", help="attribution method", choices=list(METHODS))
    options: dict[str, Any] = option({}, help="the method's own options, as options.steps=5 options.variant=released")
    classifier: ClassifierConfig = option(ClassifierConfig, help="the explained model")
    max_batch: int = option(64, help="rows (path points x images) of one forward pass; bounds memory")
    out: str = option("runs/attributions", help="folder of the results; a repeated command goes on there")


def attribute_files(config: AttributeConfig) -> None:
    """What `python -m ltx.attribute` does: a picture, an `.npz` and a line of `explanations.jsonl` for each image.

    Raises:
        InputError: a method that does not work on the classifier, an unknown option, or see
            `ltx.results.streaming.explain_files`.
    """
    check_options(config.method, config.options)  # before a model is fetched
    classifier = config.classifier.build().to(pick_device(config.device)).fold_norms()
    check_method(config.method, classifier, config.options)

    def explain(images: Tensor, targets: list[Target], names: list[str]) -> Explanation:
        begun = time.perf_counter()
        with torch.no_grad():
            logits = torch.cat([classifier(part) for part in images.split(config.max_batch)])
        chosen = classifier.targets(targets, logits)
        maps = attribute(config.method, classifier, images, chosen, **{"max_batch": config.max_batch} | config.options)
        return Explanation(
            images=images,
            maps=maps,
            targets=chosen,
            labels=[classifier.label(index) for index in chosen.tolist()],
            probability=classifier.log_probability(logits, chosen).exp(),
            method=config.method,
            seconds=(time.perf_counter() - begun) / len(images),
            names=names,
        )

    settings = {key: asdict(config)[key] for key in ("method", "options", "classifier")}
    count = explain_files(config, explain, classifier, settings)
    print(f"{count} map{'s' * (count != 1)} in {config.out}: {WRITTEN[config.save]}")
