"""How logits become probabilities: one class per image, several labels per image, or two classes of one logit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from ltx.classifier.choices import HeadName
from ltx.runtime.errors import InputError


def expand_logits(head: HeadName, logits: Tensor) -> Tensor:
    """Logits `[B, K]` of all classes; a single logit `z` of a binary head becomes `(-z, z)`."""
    return torch.cat([-logits, logits], 1) if head == "binary" else logits


def expand_rows(head: HeadName, rows: Tensor) -> Tensor:
    """Head rows `[K, D]` of all classes, see `expand_logits`."""
    return torch.cat([-rows, rows]) if head == "binary" else rows


def count_classes(head: HeadName, outputs: int, name: str) -> int:
    """Number of classes of a model with this number of outputs.

    Args:
        head: how the outputs are read.
        outputs: number of logits.
        name: the model in error messages.

    Raises:
        InputError: the head does not fit that number.
    """
    if head == "binary":
        if outputs != 1:
            raise InputError(f"classifier.head=binary is for one logit, and {name} returns {outputs}; use softmax")
        return 2
    if outputs == 1 and head == "softmax":
        raise InputError(
            f"{name} has one class, always of probability 1; set classifier.head=binary for the two classes of one "
            "logit, or classifier.head=sigmoid for one label"
        )
    return outputs


def probabilities(head: HeadName, logits: Tensor) -> Tensor:
    """Probabilities of logits `[..., K]`."""
    return logits.softmax(-1) if head == "softmax" else logits.sigmoid()


def log_probability(head: HeadName, logits: Tensor, targets: Tensor) -> Tensor:
    """`log p_y` `[B]` of logits `[B, K]` for targets `[B]`."""
    if head == "softmax":
        return of_targets(logits.log_softmax(-1), targets)
    return F.logsigmoid(of_targets(logits, targets))


def of_targets(values: Tensor, targets: Tensor) -> Tensor:
    """The entries `[B]` of values `[B, K]` for targets `[B]`.

    Raises:
        InputError: a target is not a class.
    """
    with _naming_targets(values, targets):
        return values.gather(1, targets[:, None]).squeeze(1)


@contextmanager
def _naming_targets(values: Tensor, targets: Tensor) -> Iterator[None]:
    """Name the targets in the error if one is not a class of `values [B, K]`.

    On a GPU, CUDA ends the process instead: a check would stall it.
    """
    try:
        yield
    except RuntimeError as error:
        if values.device.type != "cpu" or not targets.numel():
            raise
        low, high = (int(end) for end in targets.aminmax())
        raise InputError(f"targets from {low} to {high}; give classes from 0 to {values.shape[1] - 1}") from error


def log_complement(head: HeadName, logits: Tensor, targets: Tensor) -> Tensor:
    """`log(1 - p_y)` `[B]` of logits `[B, K]` for targets `[B]`, without cancellation if `p_y` is near 1."""
    if head != "softmax":
        return F.logsigmoid(-of_targets(logits, targets))
    with _naming_targets(logits, targets):
        others = logits.scatter(1, targets[:, None], float("-inf"))
    return others.logsumexp(1) - logits.logsumexp(1)
