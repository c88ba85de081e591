"""Trunks: the feature extractors that mask networks read."""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.classifier.feature_maps import feature_shapes, supports_features
from ltx.runtime.errors import InputError, suggest

EMBEDDINGS = ("patch_embed", "pos_embed", "cls_token", "dist_token", "reg_token")
"""Embedding layers of a vision transformer, which the released LTX code freezes."""


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
        return feature_shapes(build_trunk(classifier, name)[0], classifier.input_size)


def build_trunk(classifier: Classifier, name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A trainable trunk without classification head, and the mean and std, `[1, 3, 1, 1]`, of its normalisation.

    Args:
        classifier: the explained model, whose weights the trunk starts from wherever names and shapes agree.
        name: `copy` or a timm name, see `MaskNetwork`.

    Raises:
        InputError: the trunk is unknown, or the classifier cannot be copied.
    """
    if name == "copy":
        if not supports_features(classifier.model):
            raise InputError(
                f"explainer.trunk=copy: {classifier.name} has no forward_intermediates; "
                "choose a timm name, for instance explainer.trunk=resnet18"
            )
        trunk = copy.deepcopy(classifier.model)
        mean, std = classifier.normalisation
    else:
        if not timm.is_model(name):
            known = [*timm.list_models(), "shared", "copy", "none"]
            raise InputError(
                f"explainer.trunk={name!r} is neither shared, copy, none nor a timm model{suggest(name, known)}"
            )
        options: dict[str, Any] = {"num_classes": 0}
        try:
            trunk = timm.create_model(name, img_size=classifier.input_size, **options)
        except TypeError:  # convolutional models take any size
            trunk = timm.create_model(name, **options)
        config = resolve_model_data_config(trunk)
        mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        shapes = {key: value.shape for key, value in trunk.state_dict().items()}
        weights = classifier.model.state_dict().items()
        trunk.load_state_dict({k: v for k, v in weights if k in shapes and shapes[k] == v.shape}, strict=False)
    if hasattr(trunk, "reset_classifier"):
        trunk.reset_classifier(0)  # type: ignore[operator]  # torch types attributes of modules as tensors
    trunk.requires_grad_(True)
    for key, parameter in trunk.named_parameters():
        if key.split(".")[0] in EMBEDDINGS:
            parameter.requires_grad_(False)
    return trunk.eval(), mean.clone(), std.clone()
