"""Methods by name: `gae`, `iia2@variant=released`, `ltx:checkpoints/vit@steps=25@select_by=positive`, `random`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
import yaml
from torch import Tensor

from ltx.attribution.attribute import ConstantMapWarning, attribute
from ltx.attribution.registry import METHODS
from ltx.attribution.support import refusal
from ltx.checkpoints.folder import CONFIG, TENSORS, identity, located, read_config, read_record, read_tensors
from ltx.checkpoints.loading import load
from ltx.classifier.classifier import Classifier
from ltx.config.options import check_arguments
from ltx.evaluation.controls import CONTROLS, MapMaker, random_map
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.metrics.protocol import Batch
from ltx.runtime.errors import InputError, suggest

CHECKPOINT = "ltx:"
ALIAS = re.compile(r"([^@:=/]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        label: the name in tables.
        text: the method as the user wrote it, without the label.
        make: computes its maps.
        modules: the modules that compute its maps, for the name of cached pieces.
        identity: the method's entry in the registry, or a hash of the files that it loads.
        control: whether it is a baseline or an upper bound rather than a method to compare.
        selected_by: the metric that selected its maps, if any.
    """

    label: str
    text: str
    make: MapMaker
    modules: tuple[str, ...]
    identity: str = ""
    control: bool = False
    selected_by: str | None = None


@dataclass(frozen=True)
class MethodName:
    """A parsed method specification `[LABEL=]NAME[@OPTION=VALUE]…`."""

    label: str
    text: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)


def parse_name(text: str) -> MethodName:
    """Parse `LABEL=NAME@OPTION=VALUE@…`; values are read as YAML (`25`, `true`, `1e-4`, text).

    Raises:
        InputError: an option without a value, a repeated option, or options joined by a comma.
    """
    labelled = ALIAS.fullmatch(text.strip())
    label, method = (labelled[1], labelled[2]) if labelled else (text.strip(), text.strip())
    name, *words = method.split("@")
    options: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key or not value or key in options:
            raise InputError(f"methods: {text!r} has the option {word!r}; write each option once, as NAME@option=value")
        if re.search(r",\s*\w+=", value):
            raise InputError(f"methods: {text!r} has several options; join them with @, as NAME@one=1@two=2")
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
    """Build the methods that support this classifier.

    Returns:
        The methods, and for each other method its label and the reason why it was left out.

    Raises:
        InputError: an unknown name or option, an option that only this classifier does not support, a checkpoint that
            does not exist or cannot be read, equal labels, or no method left.
    """
    methods: list[Method] = []
    left_out: dict[str, str] = {}
    parsed = [parse_name(name) for name in names]
    if not parsed:
        raise InputError(f"methods is an empty list; give one or more of {', '.join(_known())} or ltx:FOLDER")
    for spec in parsed:
        if sum(other.label == spec.label for other in parsed) > 1:
            raise InputError(f"methods: the label {spec.label!r} occurs twice; write LABEL=METHOD to distinguish them")
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
        raise InputError(f"methods: none of them supports this classifier ({reasons})")
    return methods, left_out


def _known() -> list[str]:
    return [*METHODS, *CONTROLS]


# -- attributions --------------------------------------------------------------------------------------------------


def _attribution(spec: MethodName, classifier: Classifier, max_batch: int) -> Method | str:
    METHODS[spec.name].check(f"methods: {spec.name}", spec.options)
    reason = refusal(spec.name, classifier, spec.options)
    if reason and not refusal(spec.name, classifier):  # a mistake in an option, such as the name of a layer
        raise InputError(f"methods: {spec.text!r}: {reason}")
    if reason:
        return reason

    def make(classifier: Classifier, images: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantMapWarning)  # constant maps are listed with the scores
            return attribute(spec.name, classifier, images, targets, **{"max_batch": max_batch} | spec.options)

    entry = METHODS[spec.name]
    return Method(spec.label, spec.text, make, (entry.source.partition(":")[0],), identity=repr(entry))


# -- explainers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinetuneOptions(FinetuneSettings):
    """Options of `ltx:FOLDER@option=value`: the settings of finetuning, and its number of steps."""

    steps: int = 0


def _explainer(spec: MethodName, classifier: Classifier, max_batch: int) -> Method | str:
    allowed = [option.name for option in fields(FinetuneOptions) if option.name not in ("objective", "areas")]
    check_arguments(f"methods: {spec.name}", FinetuneOptions, allowed, spec.options)
    if spec.options and not spec.options.get("steps"):
        raise InputError(f"methods: {spec.text!r} is one forward pass; its options require steps, as in @steps=25")
    folder = located(spec.name.removeprefix(CHECKPOINT))
    if not (folder / TENSORS).is_file() or not (folder / CONFIG).is_file():
        raise InputError(
            f"methods: {folder} does not contain {TENSORS} and {CONFIG}; give a folder that ltx train wrote"
        )
    for read in (read_config, read_tensors, read_record):  # a damaged file is no reason to leave a row out
        read(folder)
    try:
        explainer = load(folder, classifier, classifier.device)
    except InputError as error:
        return str(error)
    settings = FinetuneOptions(**{"max_batch": max_batch} | spec.options)

    def make(model: Classifier, images: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        network = explainer if model is classifier else rebuild(model, explainer)
        if settings.steps:
            return finetune(network, images, targets, settings.steps, settings).maps
        with torch.no_grad():
            parts = zip(images.split(max_batch), targets.split(max_batch), strict=True)
            return torch.cat([network(*part) for part in parts])

    modules = (type(explainer).__module__, *([finetune.__module__] if settings.steps else []))
    return Method(spec.label, spec.text, make, modules, identity(folder), selected_by=spec.options.get("select_by"))


def rebuild(classifier: Classifier, explainer: MaskNetwork) -> MaskNetwork:
    """Attach a trained explainer to a modified classifier, for sanity checks; `load` would refuse its fingerprint.

    The features and head rows that the explainer reads come from the modified classifier. Its own weights stay.
    """
    settings = ExplainerConfig(**explainer.training_config["explainer"])
    network = settings.build(classifier)
    network.load_state_dict(explainer.state_dict())
    network.training_config = explainer.training_config
    return network.to(classifier.device).eval()


# -- controls ------------------------------------------------------------------------------------------------------


def _control(spec: MethodName, seed: int, has_masks: bool) -> Method | str:
    check_arguments(f"methods: {spec.name}", CONTROLS[spec.name], [], spec.options)
    if spec.name == "ground_truth" and not has_masks:
        return "there are no object masks; give masks=FOLDER"
    make = partial(random_map, seed=seed) if spec.name == "random" else CONTROLS[spec.name]
    return Method(spec.label, spec.text, make, (random_map.__module__,), control=True)
