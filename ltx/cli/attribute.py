"""`ltx attribute`: write attribution maps of image files."""

from __future__ import annotations

import time
from dataclasses import asdict

import torch
from torch import Tensor

from ltx.attribution.attribute import attribute
from ltx.attribution.registry import check_options
from ltx.attribution.settings import AttributeConfig
from ltx.attribution.support import check_method
from ltx.classifier.class_names import Target
from ltx.cli.report import report_explanations
from ltx.results.explanation import Explanation
from ltx.results.streaming import WRITTEN, explain_files
from ltx.runtime.devices import pick_device


def attribute_files(config: AttributeConfig) -> None:
    """Write a picture, an `.npz` and a line of `explanations.jsonl` for each image.

    Raises:
        InputError: a method that does not work on the classifier, an unknown option, or an error of
            `ltx.results.streaming.explain_files`.
    """
    check_options(config.method, config.options)  # before the model is loaded
    classifier = config.classifier.build().to(pick_device(config.device)).fold_norms()
    check_method(config.method, classifier, config.options)

    def explain(images: Tensor, targets: list[Target], names: list[str]) -> Explanation:
        start = time.perf_counter()
        with torch.no_grad():
            logits = torch.cat([classifier(part) for part in torch.split(images, config.max_batch)])
        indices = classifier.targets(targets, logits)
        maps = attribute(config.method, classifier, images, indices, **{"max_batch": config.max_batch} | config.options)
        return Explanation(
            images=images,
            maps=maps,
            targets=indices,
            labels=[classifier.label(index) for index in indices.tolist()],
            probability=classifier.log_probability(logits, indices).exp(),
            method=config.method,
            seconds=(time.perf_counter() - start) / len(images),
            names=names,
        )

    settings = {key: asdict(config)[key] for key in ("method", "options", "classifier")}
    count = explain_files(config, explain, classifier, settings)
    print(f"{count} map{'s' * (count != 1)} in {config.out}: {WRITTEN[config.save]}")
    report_explanations(config)
