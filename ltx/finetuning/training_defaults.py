"""Defaults of finetuning that come from the explainer and its training."""

from __future__ import annotations

from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ltx.config.schedules import check_scheduled
from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.area_sampling import AreaSampling
from ltx.objectives.settings import ObjectiveConfig
from ltx.runtime.errors import InputError

TRUNK_LR = 1e-4
"""Learning rate for adapting a whole trunk: the largest effective rate of the released LTX code."""

Schema = TypeVar("Schema")


def learning_rate(explainer: MaskNetwork, scope: str) -> float:
    """Default learning rate for finetuning: the network's own, or `TRUNK_LR` if the whole trunk is adapted."""
    return TRUNK_LR if scope == "all" and explainer.trunk is not None else explainer.finetuning_lr


def trained_objective(
    explainer: MaskNetwork, area_weight: float | None = None, keep: str | None = None
) -> ObjectiveConfig:
    """The objective of the explainer's training, or the default one for a network without a checkpoint.

    Args:
        explainer: a mask network.
        area_weight: replaces the weight of the area term; None = that of training.
        keep: replaces the kind of the keep term; None = that of training.

    Raises:
        InputError: the checkpoint's configuration contains an invalid objective, or `area_weight` is given for a
            network that takes areas.
    """
    config = _trained(explainer, "objective", ObjectiveConfig)
    if area_weight is not None and explainer.takes_areas:
        raise InputError(f"area_weight={area_weight}: an INR's masks have the requested area; leave it out")
    if area_weight is not None:
        check_scheduled("area_weight", area_weight)
        config.area.weight = area_weight
    if keep is not None:
        config.keep.kind = keep
    return config


def trained_areas(explainer: MaskNetwork) -> AreaSampling:
    """The distribution of areas in the explainer's training, or the default one for a network without a checkpoint.

    Raises:
        InputError: the checkpoint's configuration contains invalid areas.
    """
    return _trained(explainer, "areas", AreaSampling)


def _trained(explainer: MaskNetwork, group: str, schema: type[Schema]) -> Schema:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), explainer.training_config.get(group) or {})
        settings = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise InputError(f"checkpoint: config.yaml: {group}: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, schema)
    return settings
