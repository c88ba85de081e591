"""Registry of attribution methods.

To add a method, add one file to this folder and one line to `METHODS`. Entries name import paths, so that listing the
methods does not import torch.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from ltx.config.options import check_arguments
from ltx.runtime.errors import InputError, suggest

if TYPE_CHECKING:
    from torch import Tensor

Needs = Literal["pixels", "attention", "features", "attention or features"]


@dataclass(frozen=True)
class Method:
    """An entry of the method registry.

    Attributes:
        source: the function, `module:function`.
        title: name of the method in tables.
        needs: what the method requires of the classifier. `pixels`: only outputs or input gradients. `attention`: one
            global self-attention per block. `features`: `layers` feature maps with more than one position.
        layers: number of feature maps the method uses.
        depth: number of integrals; None for methods without this choice.
        settings: a dataclass whose fields are further options, `module:class`; None = no further options.
    """

    source: str
    title: str
    needs: Needs
    layers: int = 1
    depth: int | None = None
    settings: str | None = None

    @cached_property
    def function(self) -> Callable[..., Tensor]:
        """`(classifier, images [B, 3, H, W], targets [B] or None, **options) -> maps [B, 1, H, W]`."""
        function: Callable[..., Tensor] = _imported(self.source)
        return function if self.depth is None else partial(function, depth=self.depth)

    def options(self) -> dict[str, Any]:
        """Names and defaults of the method's options."""
        parameters = inspect.signature(self.function).parameters.values()
        keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "depth"}
        return {field.name: field.default for field in self._fields()} | keywords

    def check(self, owner: str, options: Mapping[str, Any]) -> None:
        """Check the names and types of options.

        Args:
            owner: name of the method in the error message.
            options: values by name.

        Raises:
            InputError: unknown option, or a value that is not a number where one is required.
        """
        known, names = self.options(), {field.name for field in self._fields()}
        check_arguments(owner, self.function, known, {k: v for k, v in options.items() if k not in names})
        if self.settings is not None:
            settings = {k: v for k, v in options.items() if k in names}
            check_arguments(owner, _imported(self.settings), known, settings)

    def _fields(self) -> tuple[Field[Any], ...]:
        return () if self.settings is None else fields(_imported(self.settings))


def _imported(source: str) -> Any:
    module, _, name = source.partition(":")
    return getattr(importlib.import_module(module), name)


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
    "inr": Method("ltx.attribution.inr:inr", "INR", "pixels", settings="ltx.attribution.inr:INRFit"),
}


def check_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of a method and return all of its options with their defaults.

    Raises:
        InputError: unknown method, unknown option, or a value that is not a number where one is required.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r} is unknown{suggest(method, METHODS)}; allowed: {', '.join(METHODS)}")
    METHODS[method].check(method, options)
    return METHODS[method].options()
