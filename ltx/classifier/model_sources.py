"""Models by name or as objects: `ModelSource` says where a model comes from and what its images must look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_model_data_config
from torch import nn

from ltx.classifier.feature_maps import supports_features
from ltx.classifier.own_modules import FunctionModule, import_module, independent_copy, is_import_path
from ltx.classifier.timm_models import timm_model
from ltx.classifier.torchvision_models import IMAGENET, TORCHVISION, torchvision_model
from ltx.classifier.transformers_models import TRANSFORMERS, label_names, processor_data, transformers_model
from ltx.classifier.weight_files import load_weights
from ltx.runtime.errors import InputError

DEFAULT_SIZE = (224, 224)


@dataclass(frozen=True)
class InputData:
    """What the images of a model must look like.

    Attributes:
        size: height and width.
        mean, std: normalisation of pixels in [0, 1], one number per channel.
        doubt: a warning for callers who give neither mean nor std; empty if the normalisation is known.
    """

    size: tuple[int, int] = DEFAULT_SIZE
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    doubt: str = ""


@dataclass(frozen=True)
class ModelRequest:
    """The part of a classifier's settings that decides which module is built.

    Attributes:
        name: `NAME` of timm, `torchvision:NAME`, `hf:FOLDER`, `package.module:function`, or a module or function.
        weights: None = pretrained; `random`; or a file.
        weights_key: entry of that file.
        num_classes: None = the model's own.
        size: None = the model's own.
        channels: None = the model's own.
        options: keyword arguments for the function that builds the model.
    """

    name: str | nn.Module | Callable[..., Any]
    weights: str | Path | None = None
    weights_key: str | None = None
    num_classes: int | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSource:
    """A module and what is known of it.

    Attributes:
        module: the model; never the caller's own object.
        name: for messages and checkpoints.
        data: size and normalisation of its images.
        class_names: of its configuration; None if it has none.
        trusted: whether timm built it, so that no trial pass is needed.
        channels: number of input channels.
    """

    module: nn.Module
    name: str
    data: InputData
    class_names: list[str] | None = None
    trusted: bool = False
    channels: int = 3


def build_model(request: ModelRequest) -> ModelSource:
    """Build or copy the requested model.

    Raises:
        InputError: unknown name, weights that do not fit, or options that the model does not take.
    """
    if not isinstance(request.name, str):
        return _given_model(request)
    name = request.name
    if name.startswith(TORCHVISION):
        return _torchvision(request, name)
    if name.startswith(TRANSFORMERS):
        return _transformers(request, name)
    if is_import_path(name):
        module = independent_copy(import_module(name, request.options))
        _load_file(module, request, name)
        return _described(module, name, request)
    if request.channels is not None and request.channels != 3:
        options = {**request.options, "in_chans": request.channels}
    else:
        options = dict(request.options)
    module = timm_model(name, request.weights, request.num_classes, request.size, options, request.weights_key)
    config = resolve_model_data_config(module)
    data = InputData(tuple(config["input_size"][1:]), config["mean"], config["std"])
    return ModelSource(module, name, data, trusted=True, channels=request.channels or 3)


def _given_model(request: ModelRequest) -> ModelSource:
    if not isinstance(request.name, nn.Module) and not callable(request.name):
        raise InputError(f"classifier={request.name!r} is not a model; give a name, an nn.Module or a function")
    if request.weights is not None:
        raise InputError(
            f"classifier.weights={request.weights} is for a model by name; load them into the module itself"
        )
    if request.options:
        raise InputError("classifier.options are for a model by name; set them on the module itself")
    if isinstance(request.name, type):
        raise InputError(f"classifier={request.name.__name__} is a class; give an instance, {request.name.__name__}(…)")
    module = independent_copy(request.name)
    if getattr(module, "num_classes", None) == 0 and hasattr(module, "pretrained_cfg"):
        raise InputError(
            f"{type(module).__name__} has no classification head (num_classes=0); give a model with one, for instance "
            "timm.create_model(…, num_classes=…) with trained weights"
        )
    owner = request.name if isinstance(module, FunctionModule) else module
    name = getattr(owner, "__name__", type(owner).__name__)
    return _described(module, name, request)


def _described(module: nn.Module, name: str, request: ModelRequest) -> ModelSource:
    """A module from the caller's code, with what its configuration says of its images."""
    channels = request.channels or first_channels(module)
    names = None
    if hasattr(module, "pretrained_cfg") and supports_features(module):  # timm's
        config = resolve_model_data_config(module)
        data = InputData(tuple(config["input_size"][1:]), config["mean"], config["std"])
    else:
        data = _object_data(module, name, channels)
        names = label_names(getattr(module, "config", None))
    return ModelSource(module, name, data, names, channels=channels)


def _object_data(module: nn.Module, name: str, channels: int) -> InputData:
    """Size and normalisation of a module that is not timm's: pixels in [0, 1], unless its image processor is known."""
    size, library = _configured_size(module), type(module).__module__.partition(".")[0]
    mean, std, doubt = (0.0,) * channels, (1.0,) * channels, ""
    if library == "transformers":
        place = str(getattr(getattr(module, "config", None), "name_or_path", ""))
        try:
            known = processor_data(place, channels, local=True) if place else None
        except InputError as error:  # the caller may have changed the module, and then gives mean and std
            return InputData(size or DEFAULT_SIZE, mean, std, str(error))
        if known is not None:
            return InputData(size or known[0] or DEFAULT_SIZE, *known[1:])
    if library in ("transformers", "torchvision"):
        doubt = (
            f"{name} is given as an object, so its normalisation is unknown: it gets pixels in [0, 1]; give mean=[…] "
            f"and std=[…] (pretrained weights of {library} mostly expect {list(IMAGENET[0])} and {list(IMAGENET[1])})"
        )
    return InputData(size or DEFAULT_SIZE, mean, std, doubt)


def _configured_size(module: nn.Module) -> tuple[int, int] | None:
    """The input size that a module states as `image_size`, itself (torchvision) or in its config (transformers)."""
    for owner in (module, getattr(module, "config", None)):
        size = getattr(owner, "image_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, (list, tuple)) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None


def first_channels(module: nn.Module) -> int:
    """Input channels of the first convolution; 3 if there is none, or if it does not read the image."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            return int(part.in_channels) if part.in_channels <= 16 else 3
    return 3


def _torchvision(request: ModelRequest, name: str) -> ModelSource:
    module, size, mean, std = torchvision_model(
        name, request.weights, request.num_classes, request.size, dict(request.options)
    )
    _load_file(module, request, name)
    return ModelSource(module, name, InputData(size, mean, std), channels=first_channels(module))


def _transformers(request: ModelRequest, name: str) -> ModelSource:
    module = transformers_model(name, request.weights, request.num_classes, request.channels, dict(request.options))
    _load_file(module, request, name)
    channels = request.channels or first_channels(module)
    data, doubt = processor_data(name.removeprefix(TRANSFORMERS), channels), ""
    if data is None:
        doubt = (
            f"classifier.name={name} has no image processor, so its normalisation is unknown: mean 0.5 and std 0.5 "
            "are assumed; set classifier.mean and classifier.std"
        )
    size, mean, std = data or (None, (0.5,) * channels, (0.5,) * channels)
    data_config = InputData(_configured_size(module) or size or DEFAULT_SIZE, mean, std, doubt)
    return ModelSource(module, name, data_config, label_names(module.config), channels=channels)


def _load_file(module: nn.Module, request: ModelRequest, name: str) -> None:
    if request.weights is not None and str(request.weights) != "random":
        load_weights(module, Path(request.weights), name, request.weights_key)


def channels_last(module: nn.Module) -> nn.Module:
    """Convolution weights in channels-last memory, as the inputs are."""
    for parameter in module.parameters():
        if parameter.ndim == 4:  # two spatial axes; `module.to` would fail for three
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module
