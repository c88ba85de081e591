"""Mask networks: an image, and the class asked about, to the mask of the pixels that the prediction rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx.classifier import Classifier
from ltx.config import option
from ltx.errors import InputError, suggest
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.unet import UNetExplainer
from ltx.explainers.vit import ViTExplainer, is_single_resolution

EXPLAINERS: dict[str, type[MaskNetwork]] = {"vit": ViTExplainer, "unet": UNetExplainer}

__all__ = ["EXPLAINERS", "ExplainerConfig", "MaskNetwork", "UNetExplainer", "ViTExplainer"]


@dataclass
class ExplainerConfig:
    """Which mask network to build; None leaves a choice to the network."""

    name: str | None = option(
        None, help="mask network; null = vit for a classifier of one resolution, else unet", choices=[*EXPLAINERS, None]
    )
    variant: str = option(
        "decoder", help="decoder, or the head of the released LTX code", choices=["decoder", "released"]
    )
    trunk: str = option("shared", help="shared (the classifier's own features), copy (trainable), or a timm model name")
    stages: list[int] | None = option(None, help="feature maps that are read, as timm counts them; null = chosen")
    conditioned: bool = option(True, help="answer for the class asked about; false = one map an image")
    width: int | None = option(None, help="channels of the decoder; null = 192 (vit), 16 at stride 4 (unet)")
    depth: int | None = option(None, help="transformer blocks of the vit decoder; null = 2")

    def build(self, classifier: Classifier) -> MaskNetwork:
        """The mask network for `classifier`.

        Raises:
            InputError: unknown name, or a combination that the network cannot have.
        """
        if self.name is None:
            self.name = "vit" if is_single_resolution(classifier.feature_shapes()[:-1]) else "unet"
        if self.name not in EXPLAINERS:
            raise InputError(f"explainer.name={self.name!r} is unknown{suggest(self.name, EXPLAINERS)}")
        options: dict[str, Any] = {"trunk": self.trunk, "stages": self.stages, "conditioned": self.conditioned}
        options["variant"] = self.variant
        if self.width is not None:
            options["width"] = self.width
        if self.depth is not None:
            if self.name != "vit":
                raise InputError(f"explainer.depth={self.depth} is for explainer.name=vit, not {self.name}")
            options["depth"] = self.depth
        return EXPLAINERS[self.name](classifier, **options)
