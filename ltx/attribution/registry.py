"""Attribution: one function a method, `(classifier, images, targets, …) -> maps [B, 1, H, W]`, and their registry.

A new method is one file here and one line in `METHODS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ltx.attribution.attention import attention_refusal, has_attention
from ltx.attribution.attention_rollout import attention_rollout
from ltx.attribution.dix import dix
from ltx.attribution.extremal_perturbation import extremal_perturbation
from ltx.attribution.feature_layers import chosen_layers
from ltx.attribution.gae import gae
from ltx.attribution.gradcam import gradcam
from ltx.attribution.gradcam_plus_plus import gradcam_plus_plus
from ltx.attribution.gradient_rollout import gradient_rollout
from ltx.attribution.gradient_shap import gradient_shap
from ltx.attribution.iia import iia
from ltx.attribution.inr import inr
from ltx.attribution.integrated_gradients import integrated_gradients
from ltx.attribution.layercam import layercam
from ltx.attribution.occlusion import occlusion
from ltx.attribution.rise import rise
from ltx.classifier.class_names import Targets
from ltx.classifier.classifier import Classifier
from ltx.config.options import check_arguments
from ltx.runtime.errors import InputError, suggest

Needs = Literal["pixels", "attention", "features", "attention or features"]


@dataclass(frozen=True)
class Method:
    """A method of the registry.

    Attributes:
        function: `(classifier, images [B, 3, H, W], targets [B] or None, **options) -> maps [B, 1, H, W]`.
        title: its name in tables.
        needs: what the classifier must have. `pixels` = nothing but gradients or outputs; `attention` = blocks with
            one global self-attention each; `features` = `layers` feature maps of more than one position.
        layers: how many feature maps it uses.
    """

    function: Callable[..., Tensor]
    title: str
    needs: Needs
    layers: int = 1

    def refusal(self, classifier: Classifier, options: Mapping[str, Any] | None = None) -> str:
        """Why the method does not work on this classifier (with these options, its layers named, say), or ''."""
        if "attention" in self.needs and has_attention(classifier):
            return ""
        if self.needs == "attention":
            return attention_refusal(classifier)
        if "features" in self.needs:
            named = dict(options or {})
            try:
                chosen_layers(classifier, named.get("layers", named.get("layer")), self.layers)
            except InputError as error:
                return str(error)
        return ""

    def options(self) -> dict[str, Any]:
        """The options of the function and their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "depth"}


METHODS: dict[str, Method] = {
    "iia": Method(partial(iia, depth=2), "IIA2", "attention or features"),
    "iia2": Method(partial(iia, depth=2), "IIA2", "attention or features"),
    "iia3": Method(partial(iia, depth=3), "IIA3", "attention or features", layers=2),
    "dix2": Method(partial(dix, depth=2), "DIX2", "attention or features", layers=3),
    "dix3": Method(partial(dix, depth=3), "DIX3", "attention or features", layers=3),
    "attention_rollout": Method(attention_rollout, "Attention Rollout", "attention"),
    "gradient_rollout": Method(gradient_rollout, "Gradient Rollout", "attention"),
    "gae": Method(gae, "GAE", "attention"),
    "gradcam": Method(gradcam, "Grad-CAM", "features"),
    "gradcam++": Method(gradcam_plus_plus, "Grad-CAM++", "features"),
    "layercam": Method(layercam, "LayerCAM", "features"),
    "integrated_gradients": Method(integrated_gradients, "Integrated Gradients", "pixels"),
    "gradient_shap": Method(gradient_shap, "Gradient SHAP", "pixels"),
    "occlusion": Method(occlusion, "Occlusion", "pixels"),
    "rise": Method(rise, "RISE", "pixels"),
    "extremal_perturbation": Method(extremal_perturbation, "Extremal Perturbation", "pixels"),
    "inr": Method(inr, "INR", "pixels"),
}


def supported_methods(classifier: Classifier) -> list[str]:
    """The names of the methods that work on this classifier."""
    return [name for name, method in METHODS.items() if not method.refusal(classifier)]


def refuse(classifier: Classifier, reason: str) -> InputError:
    """The error that says why a method does not work on this classifier, and which ones do."""
    return InputError(f"{reason}; methods that work on it: {', '.join(supported_methods(classifier))}")


def check_method(method: str, classifier: Classifier, options: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options and their defaults, once it is clear that it works with these on this classifier.

    Raises:
        InputError: see `check_options`; or it does not, and the text says whether other options or methods would.
    """
    known = check_options(method, options)
    refusal = METHODS[method].refusal(classifier, options)
    if refusal and not METHODS[method].refusal(classifier):
        raise InputError(f"method={method}: {refusal}")
    if refusal:
        raise refuse(classifier, f"method={method} does not work: {refusal}")
    return known


@torch.inference_mode(False)
@torch.enable_grad()
def attribute(
    method: str, classifier: Classifier, images: Tensor, targets: Targets = None, *, max_batch: int = 64, **options: Any
) -> Tensor:
    """Maps of how much each pixel counts for the class, higher = more.

    Methods of attention and features hook the classifier's modules for the time of the call: meanwhile no other thread
    may run that classifier.

    Args:
        method: a name of `METHODS`.
        images: `[B, 3, H, W]` in [0, 1]; moved to the classifier's device.
        targets: None or `"predicted"`, a class index or name for all, or one each; see `Classifier.targets`.
        max_batch: rows of one forward pass, at most; bounds memory and does not change the result.
        options: the method's own, see its function.

    Returns:
        `[B, 1, H, W]`, float32, on the classifier's device; their scale is the method's own.

    Raises:
        InputError: unknown method, option or class, images of a wrong shape or range, or a classifier that the method
            does not work on (the text names those that do).
    """
    known = check_options(method, options)
    if max_batch < 1:
        raise InputError(f"max_batch={max_batch}; give a positive number of images")
    images = classifier.images(images)
    if len(images) == 0:
        return images[:, :1]
    if "max_batch" in known:
        options["max_batch"] = max_batch
    # Methods of attention and features look for the model's own modules, which a folded copy does not run.
    with nullcontext() if METHODS[method].needs == "pixels" else classifier.unfolded():
        chosen = _targets(classifier, images, targets, max_batch)
        function = METHODS[method].function
        parts = images.split(max_batch)
        classes = [None] * len(parts) if chosen is None else chosen.split(max_batch)
        maps = [function(classifier, *asked, **options).detach() for asked in zip(parts, classes, strict=True)]
        return torch.cat(maps)


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


def _targets(classifier: Classifier, images: Tensor, targets: Targets, max_batch: int) -> Tensor | None:
    """Class indices, or None where they are the predicted ones: methods that run the image anyway know them then."""
    if targets is None or (isinstance(targets, str) and targets == "predicted"):
        return None
    listed = isinstance(targets, (list, tuple)) and "predicted" in targets
    if not listed:
        return classifier.targets(targets, images.new_zeros(len(images), classifier.num_classes))
    with torch.no_grad():
        return classifier.targets(targets, torch.cat([classifier(part) for part in images.split(max_batch)]))
