"""The registry of mask networks, and their settings."""

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
    """Which mask network to build; None leaves a choice to the network."""

    name: str | None = option(
        None, help="mask network; null = vit for a trunk of one resolution, else unet", choices=[*EXPLAINERS, None]
    )
    variant: str | None = option(
        None,
        help="decoder (vit, unet) or the head of the released LTX code; siren (inr of one image) or "
        "fourier (amortised); null = chosen",
        choices=["decoder", "released", "siren", "fourier", None],
    )
    trunk: str = option(
        "shared",
        help="shared (the classifier's own features), copy (trainable), a timm model name, or none (inr: no features)",
    )
    stages: list[int] | None = option(None, help="feature maps that are read, as timm counts them; null = chosen")
    conditioned: bool = option(True, help="answer for the class asked about; false = one map an image")
    width: int | None = option(None, help="channels; null = 192 (vit), 16 at stride 4 (unet), 256 (inr)")
    depth: int | None = option(None, help="transformer blocks, null = 2 (vit); hidden layers, null = 5 (inr)")
    evidence: float | None = option(
        None,
        help="weight of the class's evidence in the logits that training begins at, after init= too; null = that of "
        "init=, else 2, 0.5 (inr)",
    )
    nested: bool | None = option(None, help="inr: a smaller area's mask lies inside a larger one's; null = no")
    points: int | None = option(None, help="inr: places a side that are evaluated; null = 28")
    temperature: float | None = option(
        None, help="inr: softness of borders, in standard deviations of the scores; null = 0.05"
    )

    def __post_init__(self) -> None:
        check_ranges("explainer.", self, width=(1, math.inf), evidence=(0, 100))
        if self.stages == []:
            raise InputError(
                "explainer.stages=[] reads no feature maps; give one or more, or null for the network's own"
            )

    def build(self, classifier: Classifier) -> MaskNetwork:
        """The mask network for `classifier`.

        Raises:
            InputError: unknown name, or a combination that the network cannot have.
        """
        from ltx.explainers.mask_network import trunk_shapes
        from ltx.explainers.vit import is_single_resolution

        if self.name is None:
            self.name = "vit" if is_single_resolution(trunk_shapes(classifier, self.trunk)[:-1]) else "unet"
        if self.name not in EXPLAINERS:
            raise InputError(f"explainer.name={self.name!r} is unknown{suggest(self.name, EXPLAINERS)}")
        given = {key: value for key, value in asdict(self).items() if key != "name" and value is not None}
        for key, value in given.items():
            takers = [name for name in EXPLAINERS if key in inspect.signature(network_class(name)).parameters]
            if self.name not in takers:
                raise InputError(
                    f"explainer.{key}={value} is for explainer.name={' or '.join(takers)}, not {self.name}"
                )
        for key in ("width", "depth", "stages"):
            if self.variant == "released" and key in given:
                raise InputError(
                    f"explainer.{key}={given[key]}: the head of explainer.variant=released has one size; leave it out"
                )
        network = network_class(self.name)(classifier, **given)
        if self.evidence is not None and not network.has_evidence:
            raise InputError(
                f"explainer.evidence={self.evidence}: this explainer has no evidence to begin at, which takes "
                "explainer.conditioned=true, features of the classifier's own and its linear head; give "
                "explainer.evidence=null"
            )
        return network
