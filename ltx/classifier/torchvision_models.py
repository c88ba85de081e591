"""torchvision's classification models with their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ltx.runtime.errors import InputError, first_line, suggest

TORCHVISION = "torchvision:"

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision_model(
    name: str,
    weights: str | Path | None,
    num_classes: int | None,
    size: tuple[int, int] | None,
    options: dict[str, Any],
) -> tuple[nn.Module, tuple[int, int], Sequence[float], Sequence[float]]:
    """A classification model of torchvision, and the size, mean and standard deviation of its images.

    Args:
        name: `torchvision:NAME`.
        weights: None = torchvision's default pretrained weights; otherwise none are loaded here.
        num_classes: None = 1,000.
        size: input size; None = that of the pretrained weights.
        options: keyword arguments for torchvision's function.

    Raises:
        InputError: unknown name, pretrained weights that are not available, or options that the model does not take.
    """
    from torchvision import models

    plain = name.removeprefix(TORCHVISION)
    known = models.list_models(module=models)
    if plain not in known:
        raise InputError(f"classifier.name={name} is not a torchvision classification model{suggest(plain, known)}")
    default = models.get_model_weights(plain).DEFAULT
    preset = default.transforms()
    side = int(preset.crop_size[0])
    if weights is None and num_classes not in (None, 1000):
        raise InputError(
            f"classifier.num_classes={num_classes}: the pretrained {name} has 1000, and a head of another size is "
            "untrained; give classifier.weights=FILE"
        )
    if plain.startswith("vit_") and size is not None and weights is not None:
        options = {"image_size": size[0], **options}
    if plain in ("googlenet", "inception_v3") and weights is not None:
        # As torchvision builds them for pretrained weights: they undo ImageNet's normalisation, and apply their own.
        options = {"init_weights": False, "transform_input": str(weights) != "random", **options}
    if num_classes is not None:
        options = {"num_classes": num_classes, **options}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # random weights are the same wherever they are made
            module: nn.Module = models.get_model(plain, weights=default if weights is None else None, **options)
    except (OSError, RuntimeError) as error:
        if weights is not None:
            raise InputError(f"classifier.name={name} cannot be built: {first_line(error)}") from error
        raise InputError(
            f"classifier.name={name}: its pretrained weights are not available ({first_line(error)}); give "
            "classifier.weights=FILE, or classifier.weights=random for none"
        ) from error
    except (TypeError, ValueError) as error:
        raise InputError(f"classifier.name={name} cannot be built with these options: {first_line(error)}") from error
    mean, std = (getattr(preset, key, values) for key, values in zip(("mean", "std"), IMAGENET, strict=True))
    return module, (side, side), mean, std
