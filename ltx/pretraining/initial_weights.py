"""Initialise an explainer with the weights of an earlier checkpoint."""

from __future__ import annotations

import warnings

import torch

from ltx.checkpoints.folder import CONFIG
from ltx.checkpoints.loading import load_as_start
from ltx.classifier.timm_models import timm_model
from ltx.explainers.conditioning import set_evidence_weight
from ltx.explainers.mask_network import MaskNetwork
from ltx.runtime.errors import InputError


def load_initial_weights(explainer: MaskNetwork, folder: str, evidence: float | None = None) -> None:
    """Copy the weights of a checkpoint for the same classifier, finetuned or not, into an explainer.

    Args:
        explainer: the network, modified in place.
        folder: the checkpoint, in any form that `ltx.load` takes.
        evidence: weight of the class's evidence in the logits; None = the checkpoint's.

    Raises:
        InputError: see `load_as_start`; or the checkpoint contains another mask network.
    """
    source = load_as_start(folder, explainer.classifier)
    weights = source.state_dict()
    shapes = {name: value.shape for name, value in explainer.state_dict().items()}
    if source.stages != explainer.stages or shapes != {name: value.shape for name, value in weights.items()}:
        raise InputError(
            f"init={folder} contains another mask network; set explainer.* as in its {CONFIG}, and "
            "explainer.values=false if that is not in it"
        )
    explainer.load_state_dict(weights)
    if evidence is not None:
        set_evidence_weight(explainer.skip, evidence)  # type: ignore[arg-type] # a module of any kind


def load_pretrained_trunk(explainer: MaskNetwork, name: str) -> None:
    """Load pretrained weights into a trunk of the explainer's own, and warn if there are none.

    A trunk of the classifier's own architecture starts from the classifier's weights instead, see `MaskNetwork`.

    Args:
        explainer: the network, modified in place.
        name: `explainer.trunk`: a timm name, or `shared`, `copy` or `none`, which have nothing to load.
    """
    if explainer.trunk is None or name == "copy":
        return
    state, classifier = explainer.trunk.state_dict(), explainer.classifier.model.state_dict()
    if all(key in classifier and classifier[key].shape == value.shape for key, value in state.items()):
        return
    try:
        with torch.random.fork_rng(devices=[]):
            pretrained = timm_model(name, None, None, None).state_dict()
    except InputError as error:
        warnings.warn(f"explainer.trunk={name} starts untrained: {error}", stacklevel=2)
        return
    fitting = {key: value for key, value in pretrained.items() if key in state and state[key].shape == value.shape}
    missing = [key for key in state if key not in fitting]
    explainer.trunk.load_state_dict(fitting, strict=False)
    if missing:
        warnings.warn(
            f"explainer.trunk={name}: {len(missing)} of {len(state)} tensors start untrained, for instance "
            f"{missing[0]}, whose pretrained shape does not fit classifier.input_size",
            stacklevel=2,
        )
