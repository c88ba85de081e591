"""Attribution by method name."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ltx.attribution.attention import attention_refusal, has_attention
from ltx.attribution.registry import METHODS, check_options
from ltx.attribution.support import unsupported
from ltx.classifier.class_names import Targets, one_each
from ltx.classifier.classifier import Classifier
from ltx.metrics.perturbation import is_constant
from ltx.runtime.errors import InputError

MAX_BATCH = 64
CPU_BATCH = 6
"""Batch size on a CPU: the activations of more images exceed its caches, which takes up to twice the time per image."""


class ConstantMapWarning(UserWarning):
    """A map has one value everywhere, so it does not say which pixels matter."""


@torch.inference_mode(False)
@torch.enable_grad()
def attribute(
    method: str,
    classifier: Classifier,
    images: Tensor,
    targets: Targets = None,
    *,
    max_batch: int | None = None,
    **options: Any,
) -> Tensor:
    """Compute attribution maps: the importance of each pixel for a class, higher = more important.

    Methods that use attention or feature maps hook the classifier's modules during the call, so no other thread may run
    the same classifier at that time.

    Args:
        method: a name of `METHODS`.
        classifier: the explained model.
        images: `[B, 3, H, W]` in [0, 1]; moved to the classifier's device.
        targets: None or `"predicted"`, a class index or name for all images, or one per image; see
            `Classifier.targets`.
        max_batch: maximum batch size of a forward pass; bounds memory and does not change the result. None = 64,
            or 6 on a CPU.
        options: options of the method, see its function.

    Returns:
        Maps `[B, 1, H, W]`, float32, on the classifier's device. Their scale depends on the method.

    Warns:
        ConstantMapWarning: some maps have one value everywhere, for example if a rectified sum has no positive term.

    Raises:
        InputError: unknown method, option or class, images of a wrong shape or range, or a classifier that the method
            does not support (the message lists the methods that do); or maps that are not one per image.
    """
    defaults = check_options(method, options)
    if max_batch is None:
        max_batch = default_max_batch(classifier)
    if max_batch < 1:
        raise InputError(f"max_batch={max_batch}; give a positive number of images")
    images = classifier.images(images)
    if len(images) == 0:
        return images[:, :1]
    if "max_batch" in defaults:
        options["max_batch"] = max_batch
    # Hooks are registered on the model's own modules, which a folded copy does not run.
    with nullcontext() if METHODS[method].needs == "pixels" else classifier.unfolded():
        if METHODS[method].needs == "attention" and not has_attention(classifier):
            raise unsupported(classifier, attention_refusal(classifier))
        indices = _target_indices(classifier, images, targets, max_batch)
        function = METHODS[method].function
        chunks = -(-len(images) // max_batch)
        size = -(-len(images) // chunks)  # equal parts: a small rest takes longer per image
        parts = images.split(size)
        classes = [None] * len(parts) if indices is None else indices.split(size)
        maps = torch.cat(
            [function(classifier, *batch, **options).detach() for batch in zip(parts, classes, strict=True)]
        )
    _check_shape(method, maps, images)
    _warn_of_constant_maps(method, maps)
    return maps


def default_max_batch(classifier: Classifier) -> int:
    """Default of `max_batch` on the classifier's device."""
    return CPU_BATCH if classifier.device.type == "cpu" else MAX_BATCH


def _check_shape(method: str, maps: Tensor, images: Tensor) -> None:
    expected = (len(images), 1, *images.shape[-2:])
    if tuple(maps.shape) != expected:
        raise InputError(
            f"method={method} returns maps {tuple(maps.shape)} for {len(images)} images, not {expected}: the layer or "
            "attention that it uses does not have one row per image; choose another layer or method"
        )


def _warn_of_constant_maps(method: str, maps: Tensor) -> None:
    rows = [row for row, constant in enumerate(is_constant(maps).tolist()) if constant]  # one read from the device
    if rows:
        listed = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        warnings.warn(
            f"{method}: the maps of {len(rows)} of {len(maps)} images (index {listed}) are constant and do not rank "
            "pixels",
            ConstantMapWarning,
            stacklevel=5,
        )


def _target_indices(classifier: Classifier, images: Tensor, targets: Targets, max_batch: int) -> Tensor | None:
    """Class indices `[B]`, or None for the predicted classes, which methods read from their own forward pass."""
    listed = one_each(targets, len(images))
    if listed is None:
        return None
    if "predicted" not in listed:
        return classifier.targets(listed, images.new_zeros(len(images), classifier.num_classes))
    with torch.no_grad():
        return classifier.targets(listed, torch.cat([classifier(part) for part in images.split(max_batch)]))
