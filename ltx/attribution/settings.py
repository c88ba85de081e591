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
    """Which method explains what, and where the maps go."""

    method: str = option("iia2", help="attribution method", choices=list(METHODS))
    options: dict[str, Any] = option({}, help="the method's own options, as options.steps=5 options.variant=released")
    classifier: ClassifierConfig = option(ClassifierConfig, help="the explained model")
    max_batch: int = option(64, help="rows (path points x images) of one forward pass; bounds memory")
    out: str = option("runs/attributions", help="folder of the results; a repeated command goes on there")
