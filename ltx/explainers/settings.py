"""Registry of the mask networks, and their settings."""

from __future__ import annotations

import importlib
import inspect
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ltx.config.options import check_ranges, option
from ltx.runtime.errors import InputError, suggest

if TYPE_CHECKING:
    from ltx.classifier.classifier import Classifier
    from ltx.explainers.mask_network import MaskNetwork

EXPLAINERS = {
    "vit": "ltx.explainers.vit:ViTExplainer",
    "unet": "ltx.explainers.unet:UNetExplainer",
    "inr": "ltx.explainers.inr:INRExplainer",
}
"""Module and class of each mask network, by its name on the command line."""


def network_class(name: str) -> type[MaskNetwork]:
    """Import the class of a mask network."""
    module, _, attribute = EXPLAINERS[name].partition(":")
    found: type[MaskNetwork] = getattr(importlib.import_module(module), attribute)
    return found


@dataclass
class ExplainerConfig:
    """Which mask network to build; None = the network's default."""

    name: str | None = option(
        None, help="mask network; null = vit for a trunk of one resolution, else unet", choices=[*EXPLAINERS, None]
    )
    variant: str | None = option(
        None,
        help="decoder (vit, unet) or released (head of the released LTX code); siren (inr of one image) or "
        "fourier (amortised inr); null = the network's default",
        choices=["decoder", "released", "siren", "fourier", None],
    )
    trunk: str = option(
        "shared",
        help="shared (the classifier's own features), copy (trainable), a timm model name, or none (inr: no features)",
    )
    stages: list[int] | None = option(
        None, help="indices of the feature maps to read, as timm counts them; null = the network's default"
    )
    conditioned: bool = option(True, help="one mask per target class; false = one mask per image")
    width: int | None = option(None, help="channels; null = 192 (vit), 16 at stride 4 (unet), 256 (inr)")
    depth: int | None = option(None, help="transformer blocks, null = 2 (vit); hidden layers, null = 5 (inr)")
    evidence: float | None = option(
        None,
        help="initial weight of the class's evidence in the logits, also after init=; null = that of init=, "
        "otherwise 2 (inr: 0.5)",
    )
    values: bool = option(
        True,
        help="for classifiers whose head reads a class token: evidence also from the values of its attention without "
        "their weights, and averaged over neighbouring patches",
    )
    nested: bool | None = option(None, help="inr: masks of smaller areas are subsets of larger ones; null = no")
    points: int | None = option(None, help="inr: points per side at which the network is evaluated; null = 28")
    temperature: float | None = option(
        None, help="inr: softness of the mask's border, in standard deviations of the scores; null = 0.05"
    )

    def __post_init__(self) -> None:
        check_ranges("explainer.", self, width=(1, math.inf), evidence=(0, 100))
        if self.stages == []:
            raise InputError(
                "explainer.stages=[] reads no feature maps; give one or more, or null for the network's own"
            )

    def build(self, classifier: Classifier) -> MaskNetwork:
        """Build the mask network for a classifier.

        Raises:
            InputError: the name is unknown, or a setting does not apply to the network.
        """
        from ltx.explainers.conditioning import EvidenceStart
        from ltx.explainers.trunks import trunk_shapes
        from ltx.explainers.vit import is_single_resolution

        if self.name is None:
            self.name = "vit" if is_single_resolution(trunk_shapes(classifier, self.trunk)[:-1]) else "unet"
        if self.name not in EXPLAINERS:
            raise InputError(f"explainer.name={self.name!r} is unknown{suggest(self.name, EXPLAINERS)}")
        options = {key: value for key, value in asdict(self).items() if key != "name" and value is not None}
        options["evidence"] = EvidenceStart(options.pop("evidence", None), options.pop("values"))
        for key, value in options.items():
            takers = [name for name in EXPLAINERS if key in inspect.signature(network_class(name)).parameters]
            if self.name not in takers:
                raise InputError(
                    f"explainer.{key}={value} is for explainer.name={' or '.join(takers)}, not {self.name}"
                )
        for key in ("width", "depth", "stages"):
            if self.variant == "released" and key in options:
                raise InputError(
                    f"explainer.{key}={options[key]}: the head of explainer.variant=released has a fixed size; "
                    "leave it out"
                )
        network = network_class(self.name)(classifier, **options)
        if self.evidence is not None and not network.has_evidence:
            raise InputError(
                f"explainer.evidence={self.evidence}: this explainer has no evidence of the class, which requires "
                "explainer.conditioned=true, the classifier's own features and a linear head; use "
                "explainer.evidence=null"
            )
        return network
