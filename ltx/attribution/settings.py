"""The settings of `ltx attribute`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx.attribution.registry import METHODS
from ltx.classifier.settings import ClassifierConfig
from ltx.config.options import option
from ltx.results.settings import ExplainConfig


@dataclass
class AttributeConfig(ExplainConfig):
    """Method, classifier and output folder of `ltx attribute`."""

    method: str = option("iia2", help="attribution method", choices=list(METHODS))
    options: dict[str, Any] = option({}, help="options of the method, e.g. options.steps=5 options.variant=released")
    classifier: ClassifierConfig = option(ClassifierConfig, help="classifier to explain")
    max_batch: int | None = option(
        None, help="maximum batch size of a forward pass (path points x images); null = 64, or 6 on a CPU"
    )
    out: str = option("runs/attributions", help="output folder; the same command resumes from there", path=True)
