"""Attribution: one function a method, `(classifier, images, targets, …) -> maps [B, 1, H, W]`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ltx.attribution.attention import attention_refusal, has_attention
from ltx.attribution.registry import METHODS, check_options
from ltx.attribution.support import refuse
from ltx.classifier.class_names import Targets
from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError


@torch.inference_mode(False)
@torch.enable_grad()
def attribute(
    method: str, classifier: Classifier, images: Tensor, targets: Targets = None, *, max_batch: int = 64, **options: Any
) -> Tensor:
    """Maps of how much each pixel counts for the class, higher = more.

    Methods of attention and features hook the classifier's modules for the time of the call: meanwhile no other thread
    may run that classifier.

    Args:
        method: a name of `METHODS`.
        images: `[B, 3, H, W]` in [0, 1]; moved to the classifier's device.
        targets: None or `"predicted"`, a class index or name for all, or one each; see `Classifier.targets`.
        max_batch: rows of one forward pass, at most; bounds memory and does not change the result.
        options: the method's own, see its function.

    Returns:
        `[B, 1, H, W]`, float32, on the classifier's device; their scale is the method's own.

    Raises:
        InputError: unknown method, option or class, images of a wrong shape or range, or a classifier that the method
            does not work on (the text names those that do).
    """
    known = check_options(method, options)
    if max_batch < 1:
        raise InputError(f"max_batch={max_batch}; give a positive number of images")
    images = classifier.images(images)
    if len(images) == 0:
        return images[:, :1]
    if "max_batch" in known:
        options["max_batch"] = max_batch
    # Methods of attention and features look for the model's own modules, which a folded copy does not run.
    with nullcontext() if METHODS[method].needs == "pixels" else classifier.unfolded():
        if METHODS[method].needs == "attention" and not has_attention(classifier):
            raise refuse(classifier, attention_refusal(classifier))
        chosen = _targets(classifier, images, targets, max_batch)
        function = METHODS[method].function
        parts = images.split(max_batch)
        classes = [None] * len(parts) if chosen is None else chosen.split(max_batch)
        maps = [function(classifier, *asked, **options).detach() for asked in zip(parts, classes, strict=True)]
        return torch.cat(maps)


def _targets(classifier: Classifier, images: Tensor, targets: Targets, max_batch: int) -> Tensor | None:
    """Class indices, or None where they are the predicted ones: methods that run the image anyway know them then."""
    if targets is None or (isinstance(targets, str) and targets == "predicted"):
        return None
    listed = isinstance(targets, (list, tuple)) and "predicted" in targets
    if not listed:
        return classifier.targets(targets, images.new_zeros(len(images), classifier.num_classes))
    with torch.no_grad():
        return classifier.targets(targets, torch.cat([classifier(part) for part in images.split(max_batch)]))
