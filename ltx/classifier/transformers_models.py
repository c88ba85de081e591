"""Image classifiers of the transformers library, from a local folder or a hub name. Needs the extra `[hf]`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ltx.runtime.errors import InputError, first_line
from ltx.runtime.hub import offline_if_unreachable

TRANSFORMERS = "hf:"


def transformers_model(
    name: str, weights: str | Path | None, num_classes: int | None, channels: int | None, options: dict[str, Any]
) -> nn.Module:
    """The image classifier in a folder of `save_pretrained`, or of a hub name.

    Remote code is never run.

    Args:
        name: `hf:FOLDER` or `hf:HUB_NAME`.
        weights: None = those of the folder; otherwise random ones, for `random` or for a file that is loaded later.
        num_classes: another number of classes; only without the folder's weights.
        channels: another number of input channels; only without the folder's weights.
        options: changes of the configuration.

    Raises:
        InputError: transformers is not installed, or the folder has no image classifier or none with these settings.
    """
    try:
        import transformers  # noqa: F401  # optional
    except ImportError as error:
        raise InputError(f"classifier.name={name} needs transformers: pip install 'ltx[hf]'") from error
    place = name.removeprefix(TRANSFORMERS)
    if Path(place).expanduser().is_dir():
        place = str(Path(place).expanduser())
    elif place.startswith((".", "/", "~")):
        raise InputError(f"classifier.name={name}: the folder does not exist")
    changes = dict(options)
    if num_classes is not None:
        changes["num_labels"] = num_classes
    if channels is not None:
        changes["num_channels"] = channels
    try:
        with _hub_access(place):
            return _loaded(name, place, weights is None, options, changes)
    except InputError:
        raise
    except Exception as error:  # the hub, missing files and configurations raise many types
        raise InputError(
            f"classifier.name={name} cannot be loaded: {first_line(error)}; give a folder written by "
            "model.save_pretrained with an image classifier"
        ) from error


def _hub_access(place: str) -> AbstractContextManager[None]:
    return nullcontext() if Path(place).expanduser().is_dir() else offline_if_unreachable()


def _loaded(name: str, place: str, pretrained: bool, options: dict[str, Any], changes: dict[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    model: nn.Module
    config = AutoConfig.from_pretrained(place)
    if pretrained:
        for key in ("num_labels", "num_channels"):
            if key in changes and changes[key] != getattr(config, key, changes[key]):
                raise InputError(
                    f"classifier.name={name}: its weights have {key}={getattr(config, key)}, not {changes[key]}; "
                    "give classifier.weights=FILE"
                )
        model, report = AutoModelForImageClassification.from_pretrained(place, output_loading_info=True, **options)
        absent = sorted(key for key in report["missing_keys"] if not key.endswith("num_batches_tracked"))
        if absent:
            raise InputError(
                f"classifier.name={name} has no weights for {', '.join(absent[:3])}"
                f"{f' and {len(absent) - 3} more' if len(absent) > 3 else ''}; give a folder written by "
                "model.save_pretrained of an image classifier, or classifier.weights=FILE"
            )
        return model.float()  # a folder may hold half precision
    for attribute, value in changes.items():
        setattr(config, attribute, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are the same wherever they are made
        model = AutoModelForImageClassification.from_config(config)  # type: ignore[no-untyped-call]  # no annotations
        return model.float()


def processor_data(
    place: str, channels: int, local: bool = False
) -> tuple[tuple[int, int] | None, Sequence[float], Sequence[float]] | None:
    """Size, mean and standard deviation of the image processor in a place; None if there is none.

    Mean and standard deviation are those of what it does to pixels in [0, 1], measured on images of one colour: some
    processors divide by a standard deviation twice, or map pixels to another range first.

    Args:
        place: a folder or a hub name.
        channels: number of input channels.
        local: read only local files, for a hub name those of its cache.

    Raises:
        InputError: the processor exchanges the colours.
    """
    from transformers import AutoImageProcessor

    try:
        with nullcontext() if local else _hub_access(place):
            processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]  # no annotations
                str(Path(place).expanduser()), local_files_only=local
            )
            settings = processor.to_dict()
    except (OSError, ValueError, ImportError):
        return None
    size = settings.get("crop_size") if settings.get("do_center_crop") else None
    size = size or settings.get("size") or {}
    size = dict(size) if not isinstance(size, int) else {"shortest_edge": size}
    side = size.get("shortest_edge")
    height, width = size.get("height", side), size.get("width", side)
    known = None if height is None or width is None else (int(height), int(width))
    stated = settings.get("image_mean"), settings.get("image_std")
    colours = len(stated[0]) if isinstance(stated[0], (list, tuple)) else 3
    try:
        measured = _normalisation(processor, colours, place)
    except InputError:
        raise
    except Exception:  # a processor of something else than pixels
        return None
    if all(isinstance(row, (list, tuple)) for row in stated) and np.allclose(measured, stated, rtol=1e-4, atol=1e-6):
        measured = stated  # has all digits
    return known, *measured


def _normalisation(processor: Any, channels: int, place: str) -> tuple[Sequence[float], Sequence[float]]:
    """What an image processor subtracts from pixels in [0, 1] and divides by, by channel, to five digits."""
    flat = np.zeros((3, 64, 64, channels), np.uint8)
    flat[1], flat[2, ..., 0] = 255, 255  # black, white, red
    values = processor(list(flat), return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    black, white, red = values[..., values.shape[-2] // 2, values.shape[-1] // 2].double()
    if (red - black).abs().argmax() != 0:
        raise InputError(
            f"classifier.name={place}: its image processor exchanges red and blue; give a package.module:function that "
            "returns a module which does so itself, with classifier.mean and classifier.std"
        )
    span = white - black
    mean, std = ([float(f"{value:.5g}") for value in row] for row in ((0 - black / span).tolist(), (1 / span).tolist()))
    return mean, std


def label_names(config: Any) -> list[str] | None:
    """The class names of a transformers configuration; None if it has only the placeholders `LABEL_0`, …"""
    labels = getattr(config, "id2label", None)
    if not isinstance(labels, dict) or not labels:
        return None
    names = [str(labels[index]) for index in sorted(labels, key=int)]
    return None if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names


def known_stages(model: nn.Module) -> tuple[str, ...] | None:
    """Names of the modules that end the stages of a Swin transformer; None for other models, which are inferred.

    Its stages return their output after patch merging; the feature map is the output of the last block before it.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    backbone = getattr(model, str(kind), None)
    layers = getattr(getattr(backbone, "encoder", None), "layers", None)
    if kind not in ("swin", "swinv2") or not isinstance(layers, nn.ModuleList):
        return None
    depths = [len(list(layer.get_submodule("blocks").children())) for layer in layers]
    return tuple(f"{kind}.encoder.layers.{i}.blocks.{depth - 1}" for i, depth in enumerate(depths))
