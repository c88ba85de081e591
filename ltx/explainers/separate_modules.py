"""Copies of a network that share its tensors."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from ltx.explainers.mask_network import MaskNetwork

Network = TypeVar("Network", bound="MaskNetwork")


def separate_modules(explainer: Network) -> Network:
    """A network with separate module objects, so that a change of one network's modules does not reach the other.

    Tensors, the classifier and the users' hooks are shared.
    """
    shared: list[Any] = [explainer.classifier, *explainer.parameters(), *explainer.buffers()]
    for module in explainer.modules():
        shared += [value for key, value in vars(module).items() if key.endswith("_hooks") or isinstance(value, Tensor)]
    return deepcopy(explainer, {id(item): item for item in shared})
