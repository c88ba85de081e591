"""Explainers from checkpoint folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ltx.checkpoints.classifier_record import ClassifierRecord, check_fit
from ltx.checkpoints.classifier_settings import rebuild
from ltx.checkpoints.folder import CONFIG, TENSORS, located, read_config, read_record, read_tensors
from ltx.classifier.classifier import Classifier
from ltx.classifier.settings import ClassifierConfig
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError


def load(
    path: str | Path,
    classifier: Classifier | None = None,
    device: str | torch.device = "cpu",
    trust: bool = False,
    **changes: Any,
) -> MaskNetwork:
    """Load the explainer of a checkpoint folder, with its classifier, in eval mode.

    The classifier may have another head than in training: the explainer reads the head's rows, so one that was trained
    for 1,000 classes explains a finetuned head of ten.

        explainer = ltx.load("tf_efficientnet_lite0")
        explainer = ltx.load("tf_efficientnet_lite0", weights="my_head.pth", num_classes=10)

    Args:
        path: a folder, the name of a shipped checkpoint (`tf_efficientnet_lite0`), or
            `wandb:ENTITY/PROJECT/NAME:ALIAS`, see `ltx.checkpoints.wandb_artifacts.fetch`.
        classifier: the model to explain; None = rebuild it from the checkpoint's configuration.
        device: device of both; `auto` = a GPU if there is one.
        trust: allow a checkpoint to import and call the function that builds its classifier
            (`classifier.name=package.module:function`), which runs code of that package.
        changes: settings of the rebuilt classifier that differ from training, such as `name`, `weights`, `num_classes`,
            `class_names`, `head` and `precision`, see `ltx.Classifier`; None = as in training, but precision `"fp32"`.

    Raises:
        InputError: no such folder, an unreadable file, or a checkpoint that does not fit the classifier.
    """
    return _load(path, classifier, device, trust, changes)


def load_as_start(path: str | Path, classifier: Classifier) -> MaskNetwork:
    """Load the explainer of a checkpoint as the start of a training for a classifier.

    Its trunk may have moved further from the checkpoint's than `load` accepts.

    Raises:
        InputError: see `load`; or the classifier has another architecture.
    """
    return _load(path, classifier, "cpu", trust=False, changes={}, starts_training=True)


def _load(
    path: str | Path,
    classifier: Classifier | None,
    device: str | torch.device,
    trust: bool,
    changes: dict[str, Any],
    starts_training: bool = False,
) -> MaskNetwork:
    folder = located(path)
    if not (folder / TENSORS).is_file() or not (folder / CONFIG).is_file():
        raise InputError(f"checkpoint={folder} does not contain {TENSORS} and {CONFIG}; give a folder of `ltx train`")
    config = read_config(folder)
    tensors = read_tensors(folder)
    record = read_record(folder)
    if classifier is None:
        settings: ClassifierConfig = _settings(config, "classifier", ClassifierConfig, folder)
        classifier = rebuild(folder, settings, changes, trust)
    check_fit(folder, record, classifier, starts_training)
    # A checkpoint without this setting was trained before it existed.
    config["explainer"] = {"values": False, **(config.get("explainer") or {})}
    network: ExplainerConfig = _settings(config, "explainer", ExplainerConfig, folder)
    try:
        explainer: MaskNetwork = network.build(classifier)
    except InputError as error:
        raise InputError(f"checkpoint={folder}: {CONFIG}: {error}") from error
    _fill(explainer, tensors, folder, record)
    explainer.training_config = config
    place = pick_device("auto") if device == "auto" else device
    classifier.to(place)
    return explainer.to(place).eval()


def _fill(explainer: MaskNetwork, tensors: dict[str, Tensor], folder: Path, record: ClassifierRecord) -> None:
    """Copy a checkpoint's tensors into its network.

    Raises:
        InputError: their names or shapes are not those of the network.
    """
    classifier = explainer.classifier
    expected = explainer.state_dict()
    misfits = [
        f"{name} {tuple(tensors[name].shape) if name in tensors else 'absent'} in the file, "
        f"{tuple(expected[name].shape) if name in expected else 'absent'} in the network"
        for name in [*expected, *(name for name in tensors if name not in expected)]
        if name not in tensors or name not in expected or tensors[name].shape != expected[name].shape
    ]
    if misfits and record.num_classes not in (None, classifier.num_classes):
        raise InputError(
            f"checkpoint={folder} was trained for {record.describe()}; it cannot explain the head of {classifier.name} "
            f"with {classifier.num_classes}, because not both heads are linear layers"
        )
    if misfits:
        raise InputError(f"checkpoint={folder} does not fit its own {CONFIG}: {'; '.join(misfits[:3])}")
    explainer.load_state_dict({name: value.to(expected[name].dtype) for name, value in tensors.items()})


def _settings(config: dict[str, Any], group: str, schema: type[Any], folder: Path) -> Any:
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), config.get(group) or {}))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise InputError(f"checkpoint={folder}: {CONFIG}: {group}: {str(error).splitlines()[0]}") from error
