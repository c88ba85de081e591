"""Initialise an explainer with the weights of an earlier checkpoint."""

from __future__ import annotations

from torch import nn

from ltx.checkpoints.folder import CONFIG
from ltx.checkpoints.loading import load
from ltx.explainers.mask_network import MaskNetwork
from ltx.runtime.errors import InputError


def load_initial_weights(explainer: MaskNetwork, folder: str, evidence: float | None = None) -> None:
    """Copy the weights of a checkpoint for the same classifier into an explainer.

    Args:
        explainer: the network, modified in place.
        folder: the checkpoint, in any form that `ltx.load` takes.
        evidence: weight of the class's evidence in the logits; None = the checkpoint's.

    Raises:
        InputError: see `ltx.load`; or the checkpoint contains another mask network.
    """
    source = load(folder, explainer.classifier)
    weights = source.state_dict()
    shapes = {name: value.shape for name, value in explainer.state_dict().items()}
    if source.stages != explainer.stages or shapes != {name: value.shape for name, value in weights.items()}:
        raise InputError(f"init={folder} contains another mask network; set explainer.* as in its {CONFIG}")
    explainer.load_state_dict(weights)
    if evidence is not None:
        nn.init.constant_(explainer.skip.weight, evidence)  # type: ignore[arg-type, union-attr] # of two networks
