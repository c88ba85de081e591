"""Trunks: the feature extractors that mask networks read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.classifier.feature_maps import feature_shapes, trainable_trunk
from ltx.runtime.errors import InputError, suggest


def trunk_shapes(classifier: Classifier, name: str) -> list[torch.Size]:
    """Shapes `[C, h, w]` of a trunk's stages and, last, of its final map; empty for `none`.

    Draws no random numbers: the network's initial weights do not depend on earlier calls.

    Args:
        classifier: the explained model.
        name: see `MaskNetwork`.

    Raises:
        InputError: the trunk is unknown or has no feature maps.
    """
    if name == "none":
        return []
    if name == "shared":
        return classifier.feature_shapes()
    with torch.random.fork_rng(devices=[]):
        return feature_shapes(build_trunk(classifier, name)[0], classifier.input_size, channels=classifier.channels)


def build_trunk(classifier: Classifier, name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A trainable trunk without classification head, and the mean and std, `[1, C, 1, 1]`, of its normalisation.

    Args:
        classifier: the explained model, whose weights the trunk starts from wherever names and shapes agree.
        name: `copy` or a timm name, see `MaskNetwork`.

    Raises:
        InputError: the trunk is unknown, or the classifier cannot be copied.
    """
    if name == "copy":
        mean, std = classifier.normalisation
        return classifier.interface.trunk().eval(), mean.clone(), std.clone()
    if not timm.is_model(name):
        known = [*timm.list_models(), "shared", "copy", "none"]
        raise InputError(
            f"explainer.trunk={name!r} is neither shared, copy, none nor a timm model{suggest(name, known)}"
        )
    options: dict[str, Any] = {"num_classes": 0}
    if classifier.channels != 3:
        options["in_chans"] = classifier.channels
    try:
        trunk = timm.create_model(name, img_size=classifier.input_size, **options)
    except TypeError:  # convolutional models take any size
        trunk = timm.create_model(name, **options)
    config = resolve_model_data_config(trunk)
    shapes = {key: value.shape for key, value in trunk.state_dict().items()}
    weights = classifier.model.state_dict().items()
    trunk.load_state_dict({k: v for k, v in weights if k in shapes and shapes[k] == v.shape}, strict=False)
    mean, std = (_per_channel(config[key], classifier.channels) for key in ("mean", "std"))
    return trainable_trunk(trunk).eval(), mean, std


def _per_channel(values: Sequence[float], channels: int) -> Tensor:
    """`[1, C, 1, 1]`; three values for another number of channels are averaged."""
    numbers = list(values) if len(values) == channels else [sum(values) / len(values)] * channels
    return torch.tensor(numbers).view(1, channels, 1, 1)
