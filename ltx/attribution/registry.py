"""The registry of attribution methods.

A new method is one file in this folder and one line in `METHODS`. Methods are named by their import path, so that
listing them does not import torch.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from ltx.config.options import check_arguments
from ltx.runtime.errors import InputError, suggest

if TYPE_CHECKING:
    from torch import Tensor

Needs = Literal["pixels", "attention", "features", "attention or features"]


@dataclass(frozen=True)
class Method:
    """A method of the registry.

    Attributes:
        source: `module:function`.
        title: its name in tables.
        needs: what the classifier must have. `pixels`: nothing but gradients or outputs. `attention`: blocks with one
            global self-attention each. `features`: `layers` feature maps of more than one position.
        layers: how many feature maps it uses.
        depth: how many integrals it takes; None for methods without that choice.
    """

    source: str
    title: str
    needs: Needs
    layers: int = 1
    depth: int | None = None

    @cached_property
    def function(self) -> Callable[..., Tensor]:
        """`(classifier, images [B, 3, H, W], targets [B] or None, **options) -> maps [B, 1, H, W]`."""
        module, _, name = self.source.partition(":")
        function: Callable[..., Tensor] = getattr(importlib.import_module(module), name)
        return function if self.depth is None else partial(function, depth=self.depth)

    def options(self) -> dict[str, Any]:
        """The options of the function and their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "depth"}


METHODS: dict[str, Method] = {
    "iia": Method("ltx.attribution.iia:iia", "IIA2", "attention or features", depth=2),
    "iia2": Method("ltx.attribution.iia:iia", "IIA2", "attention or features", depth=2),
    "iia3": Method("ltx.attribution.iia:iia", "IIA3", "attention or features", layers=2, depth=3),
    "dix2": Method("ltx.attribution.dix:dix", "DIX2", "attention or features", layers=3, depth=2),
    "dix3": Method("ltx.attribution.dix:dix", "DIX3", "attention or features", layers=3, depth=3),
    "attention_rollout": Method(
        "ltx.attribution.attention_rollout:attention_rollout", "Attention Rollout", "attention"
    ),
    "gradient_rollout": Method("ltx.attribution.gradient_rollout:gradient_rollout", "Gradient Rollout", "attention"),
    "gae": Method("ltx.attribution.gae:gae", "GAE", "attention"),
    "gradcam": Method("ltx.attribution.gradcam:gradcam", "Grad-CAM", "features"),
    "gradcam++": Method("ltx.attribution.gradcam_plus_plus:gradcam_plus_plus", "Grad-CAM++", "features"),
    "layercam": Method("ltx.attribution.layercam:layercam", "LayerCAM", "features"),
    "integrated_gradients": Method(
        "ltx.attribution.integrated_gradients:integrated_gradients", "Integrated Gradients", "pixels"
    ),
    "gradient_shap": Method("ltx.attribution.gradient_shap:gradient_shap", "Gradient SHAP", "pixels"),
    "occlusion": Method("ltx.attribution.occlusion:occlusion", "Occlusion", "pixels"),
    "rise": Method("ltx.attribution.rise:rise", "RISE", "pixels"),
    "extremal_perturbation": Method(
        "ltx.attribution.extremal_perturbation:extremal_perturbation", "Extremal Perturbation", "pixels"
    ),
    "inr": Method("ltx.attribution.inr:inr", "INR", "pixels"),
}


def check_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options and their defaults, once it is clear that these can be given to it.

    Raises:
        InputError: an unknown method or option, or no number where one belongs.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r} is unknown{suggest(method, METHODS)}; allowed: {', '.join(METHODS)}")
    known = METHODS[method].options()
    check_arguments(method, METHODS[method].function, known, options)
    return known
