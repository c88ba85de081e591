"""Methods by name: `gae`, `iia2@variant=released`, `ltx:checkpoints/vit@steps=25@select_by=positive`, `random`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from ltx.attribution.attribute import attribute
from ltx.attribution.registry import METHODS
from ltx.attribution.support import refusal
from ltx.checkpoints.folder import CONFIG, TENSORS, identity, load, located, read_config
from ltx.classifier.classifier import Classifier
from ltx.config.options import check_arguments
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.finetuning.finetune import finetune
from ltx.metrics.protocol import Batch, generator
from ltx.runtime.errors import InputError, suggest

MapMaker = Callable[[Classifier, Tensor, Tensor, Batch], Tensor]
"""`(classifier, images, targets, batch) -> maps [B, 1, H, W]`; the images may be altered ones of the batch."""

CHECKPOINT = "ltx:"
ALIAS = re.compile(r"([^@:=/]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        label: how the tables call it.
        text: how the user wrote it, without the label.
        make: makes its maps.
        identity: a hash of the files it comes from, if any.
        control: whether it is there to be beaten, or as an upper bound.
        selected_by: the metric that chose its maps, if one did.
    """

    label: str
    text: str
    make: MapMaker
    identity: str = ""
    control: bool = False
    selected_by: str | None = None


@dataclass(frozen=True)
class MethodName:
    """A method as it was written: `[LABEL=]NAME[@OPTION=VALUE]…`."""

    label: str
    text: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)


def parse_name(text: str) -> MethodName:
    """Take `LABEL=NAME@OPTION=VALUE@…` apart; values are read as YAML (`25`, `true`, `1e-4`, text).

    Raises:
        InputError: an option without a value, given twice, or joined to the one before by a comma.
    """
    labelled = ALIAS.fullmatch(text.strip())
    label, method = (labelled[1], labelled[2]) if labelled else (text.strip(), text.strip())
    name, *words = method.split("@")
    options: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key or not value or key in options:
            raise InputError(f"methods: {text!r} has the option {word!r}; write each once, as NAME@option=value")
        if re.search(r",\s*\w+=", value):
            raise InputError(f"methods: {text!r} has several options; join them by @, as NAME@one=1@two=2")
        options[key] = _value(value)
    return MethodName(label, method, name, options)


def _value(text: str) -> Any:
    try:
        return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text) else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def build_methods(
    names: Iterable[str], classifier: Classifier, seed: int, has_masks: bool, max_batch: int
) -> tuple[list[Method], dict[str, str]]:
    """The methods that work on this classifier, and why each other one is left out.

    Raises:
        InputError: an unknown name or option, a checkpoint that does not exist, equal labels, or none left.
    """
    methods: list[Method] = []
    left_out: dict[str, str] = {}
    parsed = [parse_name(name) for name in names]
    if not parsed:
        raise InputError(f"methods is an empty list; give some of {', '.join(_known())} or ltx:FOLDER")
    for spec in parsed:
        if sum(other.label == spec.label for other in parsed) > 1:
            raise InputError(f"methods: {spec.label!r} is there twice; write LABEL=METHOD to tell them apart")
        if spec.name.startswith(CHECKPOINT):
            method = _explainer(spec, classifier, max_batch)
        elif spec.name in CONTROLS:
            method = _control(spec, seed, has_masks)
        elif spec.name in METHODS:
            method = _attribution(spec, classifier, max_batch)
        else:
            raise InputError(
                f"methods: {spec.name!r} is unknown{suggest(spec.name, _known())}; allowed: {', '.join(_known())}, "
                "ltx:FOLDER, each with its options as NAME@option=value@option=value"
            )
        if isinstance(method, str):
            left_out[spec.label] = method
        else:
            methods.append(method)
    if not methods:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in left_out.items())
        raise InputError(f"methods: none of them works here ({reasons})")
    return methods, left_out


def _known() -> list[str]:
    return [*METHODS, *CONTROLS]


# -- attributions --------------------------------------------------------------------------------------------------


def _attribution(spec: MethodName, classifier: Classifier, max_batch: int) -> Method | str:
    METHODS[spec.name].check(f"methods: {spec.name}", spec.options)
    reason = refusal(spec.name, classifier, spec.options)
    if reason:
        return reason

    def make(classifier: Classifier, images: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        return attribute(spec.name, classifier, images, targets, **{"max_batch": max_batch} | spec.options)

    return Method(spec.label, spec.text, make)


# -- explainers ----------------------------------------------------------------------------------------------------


def _explainer(spec: MethodName, classifier: Classifier, max_batch: int) -> Method | str:
    fixed = ("explainer", "images", "targets", "objective", "names", "areas", "allowed", "starts")
    allowed = [key for key in inspect.signature(finetune).parameters if key not in fixed]
    check_arguments(f"methods: {spec.name}", finetune, allowed, spec.options)
    if spec.options and not spec.options.get("steps"):
        raise InputError(f"methods: {spec.text!r} is one forward pass; its options take steps, as @steps=25")
    folder = located(spec.name.removeprefix(CHECKPOINT))
    if not (folder / TENSORS).is_file() or not (folder / CONFIG).is_file():
        raise InputError(f"methods: {folder} holds no {TENSORS} and {CONFIG}; give a folder that train.py wrote")
    try:
        explainer = load(folder, classifier, classifier.device)
    except InputError as error:
        return str(error)
    options = {"max_batch": max_batch} | spec.options

    def make(asked: Classifier, images: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        network = explainer if asked is classifier else rebuilt_around(asked, explainer, folder)
        if "steps" in options:
            return finetune(network, images, targets, **options).maps
        with torch.no_grad():
            parts = zip(images.split(max_batch), targets.split(max_batch), strict=True)
            return torch.cat([network(*part) for part in parts])

    return Method(spec.label, spec.text, make, identity(folder), selected_by=spec.options.get("select_by"))


def rebuilt_around(classifier: Classifier, explainer: MaskNetwork, folder: Path) -> MaskNetwork:
    """The trained explainer on an altered classifier, as sanity checks ask; `load` would refuse another fingerprint.

    Whatever it reads from the classifier (features, head rows) is the altered classifier's; what it learned stays.
    """
    settings = ExplainerConfig(**(read_config(folder).get("explainer") or {}))
    network = settings.build(classifier)
    network.load_state_dict(explainer.state_dict())
    network.made_with = explainer.made_with
    return network.to(classifier.device).eval()


# -- controls ------------------------------------------------------------------------------------------------------


def _control(spec: MethodName, seed: int, has_masks: bool) -> Method | str:
    check_arguments(f"methods: {spec.name}", CONTROLS[spec.name], [], spec.options)
    if spec.name == "ground_truth" and not has_masks:
        return "there are no object masks; give masks=FOLDER"
    make = partial(random_map, seed=seed) if spec.name == "random" else CONTROLS[spec.name]
    return Method(spec.label, spec.text, make, control=True)


def random_map(classifier: Classifier, images: Tensor, targets: Tensor, batch: Batch, seed: int = 0) -> Tensor:
    """Uniform noise on a 14×14 grid, upsampled bilinearly; an image's draw depends on its name and the seed only."""
    grids = [torch.rand(1, 14, 14, generator=generator(seed, "random", name)) for name in batch.seed_names]
    maps = F.interpolate(torch.stack(grids), images.shape[-2:], mode="bilinear", align_corners=False)
    return maps.to(images)


def gaussian_map(classifier: Classifier, images: Tensor, targets: Tensor, batch: Batch) -> Tensor:
    """A Gaussian at the image's centre, σ a quarter of each side: the `center` baseline of the pointing game."""
    sides = [torch.linspace(-1, 1, size, device=images.device) / 0.5 for size in images.shape[-2:]]
    bump = torch.exp(-0.5 * (sides[0][:, None] ** 2 + sides[1][None] ** 2))
    return bump.expand(images.shape[0], 1, -1, -1).contiguous()


def constant_map(classifier: Classifier, images: Tensor, targets: Tensor, batch: Batch) -> Tensor:
    """0.5 everywhere: pixels are removed in row-major order."""
    return torch.full_like(images[:, :1], 0.5)


def ground_truth_map(classifier: Classifier, images: Tensor, targets: Tensor, batch: Batch) -> Tensor:
    """The object's own mask."""
    if batch.objects is None:
        raise InputError("methods: ground_truth needs object masks; give masks=FOLDER")
    return batch.objects.to(images)


CONTROLS: dict[str, MapMaker] = {
    "random": random_map,
    "gaussian": gaussian_map,
    "constant": constant_map,
    "ground_truth": ground_truth_map,
}
