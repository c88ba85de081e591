"""Trial pass of a module: whether it is a differentiable, deterministic classifier of a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ltx.classifier.interface import ImageModel
from ltx.runtime.errors import InputError, first_line

TOLERANCE = 1e-3
"""Largest difference of logits that counts as rounding, as a fraction of the largest logit."""

VIEWS = ("View", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Select", "Clone", "ToCopy", "Alias", "TBackward")


def run_trial(model: ImageModel, normalise: Callable[[Tensor], Tensor], size: tuple[int, int], name: str) -> Tensor:
    """Run the model on two different images and return their logits `[2, K]`.

    Args:
        model: the adapter.
        normalise: from pixels in [0, 1] to inputs.
        size: height and width of the images.
        name: the model in error messages.

    Raises:
        InputError: the images do not go through the model, or its output is not a batch of logits, does not depend
            differentiably on the pixels, is not finite, depends on the other images of the batch, or is random.
    """
    parameter = next(model.module.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, model.channels, *size, generator=generator).to(device).requires_grad_()

    def run(batch: Tensor) -> Tensor:
        return model.logits(normalise(batch)).float()

    with _isolated(device):
        with torch.enable_grad():
            logits = _run(run, images, name, size, model.channels)
            if logits.shape[0] != 2:
                raise InputError(
                    f"{name} returns {tuple(logits.shape)} for a batch of two images; a classifier returns logits "
                    "[B, K], one row for each image"
                )
            _check_gradient(logits, images, name)
        if not logits.isfinite().all():
            raise InputError(f"{name} returns logits that are not finite for random images in [0, 1]")
        with torch.no_grad():
            again, alone = run(images), run(images[:1])
    scale = logits.detach().abs().max().clamp_min(1e-6)
    if (again - logits).abs().max() > TOLERANCE * scale:
        raise InputError(
            f"{name} is random in eval mode: two passes over the same images differ; call dropout and the like only "
            "if self.training"
        )
    if (alone - logits[:1]).abs().max() > TOLERANCE * scale:
        raise InputError(
            f"{name} gives an image other logits in another batch; each image's logits must not depend on the other "
            "images (batch statistics in eval mode?)"
        )
    return logits


def check_not_probabilities(logits: Tensor, head: str, name: str) -> None:
    """Refuse outputs that are probabilities already, which a softmax or sigmoid would distort.

    Args:
        logits: `[2, K]`, on the autograd graph.
        head: `softmax`, `sigmoid` or `binary`.
        name: the model in error messages.

    Raises:
        InputError: the outputs are probabilities.
    """
    operation = _last_operation(logits)
    in_range = bool(((logits >= 0) & (logits <= 1)).all())
    is_distribution = logits.shape[1] > 1 and in_range and bool(((logits.sum(1) - 1).abs() < 1e-4).all())
    is_probability = in_range and ("Sigmoid" in operation or ("Softmax" in operation and "Log" not in operation))
    if not (is_probability or (head == "softmax" and is_distribution)):
        return
    function, inverse = ("sigmoid", "logit()") if "Sigmoid" in operation else ("softmax", "log()")
    raise InputError(
        f"{name} returns probabilities, not logits; remove its last {function}, or give "
        f"forward=lambda module, images: module(images).clamp(1e-7, 1 - 1e-7).{inverse}"
    )


def _run(run: Callable[[Tensor], Tensor], images: Tensor, name: str, size: tuple[int, int], channels: int) -> Tensor:
    try:
        return run(images)
    except InputError:
        raise
    except Exception as error:  # the module's own code
        raise InputError(
            f"{name} cannot run on a batch of two images of {channels} channels and {size[0]}x{size[1]} pixels: "
            f"{type(error).__name__}: {first_line(error)}; check input_size and channels"
        ) from error


def _check_gradient(logits: Tensor, images: Tensor, name: str) -> None:
    (gradient,) = torch.autograd.grad(logits.sum(), [images], allow_unused=True) if logits.requires_grad else (None,)
    if gradient is None:
        raise InputError(
            f"{name} computes its logits without a gradient to the pixels (torch.no_grad, detach, rounding or NumPy "
            "in its forward pass); explanations are trained through the classifier, so remove that"
        )
    if not gradient.isfinite().all():
        raise InputError(f"{name} has a gradient to the pixels that is not finite for random images in [0, 1]")


def _last_operation(logits: Tensor) -> str:
    """Name of the operation that computed the logits, apart from views and casts."""
    node: Any = logits.grad_fn
    while node is not None and any(view in node.name() for view in VIEWS) and node.next_functions:
        if "Softmax" in node.name() or "Sigmoid" in node.name():
            break
        node = node.next_functions[0][0]
    return "" if node is None else str(node.name())


@contextmanager
def _isolated(device: torch.device) -> Any:
    """Neither compilation nor the caller's random numbers are affected within the context."""
    devices = [device] if device.type == "cuda" else []
    stance = torch.compiler.set_stance("force_eager")
    with torch.random.fork_rng(devices=devices), stance, torch.inference_mode(False):
        yield
