"""`ltx attribute`: write attribution maps of image files."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict

import torch
from torch import Tensor

from ltx.attribution.attribute import ConstantMapWarning, attribute, default_max_batch
from ltx.attribution.registry import check_options
from ltx.attribution.settings import AttributeConfig
from ltx.attribution.support import check_method
from ltx.classifier.class_names import Target
from ltx.cli.report import report_explanations
from ltx.metrics.perturbation import is_constant
from ltx.results.explanation import Explanation
from ltx.results.streaming import WRITTEN, explain_files
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import PartialFailureError


def attribute_files(config: AttributeConfig) -> None:
    """Write a picture, an `.npz` and a line of `explanations.jsonl` for each image.

    Raises:
        InputError: a method that does not work on the classifier, an unknown option, or an error of
            `ltx.results.streaming.explain_files`.
        PartialFailureError: the results are written, but some sources could not be used.
    """
    check_options(config.method, config.options)  # before the model is loaded
    classifier = config.classifier.build().to(pick_device(config.device)).fold_norms()
    check_method(config.method, classifier, config.options)

    constant: list[str] = []
    max_batch = default_max_batch(classifier) if config.max_batch is None else config.max_batch

    def explain(images: Tensor, targets: list[Target], names: list[str]) -> Explanation:
        start = time.perf_counter()
        with torch.no_grad():
            logits = torch.cat([classifier(part) for part in torch.split(images, max_batch)])
        indices = classifier.targets(targets, logits)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantMapWarning)  # printed below with the names of the files
            options = {"max_batch": max_batch} | config.options
            maps = attribute(config.method, classifier, images, indices, **options)
        constant.extend(name for name, flat in zip(names, is_constant(maps).tolist(), strict=True) if flat)
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
    done = explain_files(config, explain, classifier, settings)
    if constant:
        print(f"warning: {len(constant)} constant maps, which do not rank pixels: {', '.join(constant)}")
    print(f"{done.count} map{'s' * (done.count != 1)} in {config.out}: {WRITTEN[config.save]}")
    report_explanations(config)
    if done.failed:
        raise PartialFailureError([reason for _, reason in done.failed])
