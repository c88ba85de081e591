"""A checkpoint on disk: a folder with the explainer's tensors, the resolved configuration and a model card."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ltx.checkpoints.classifier_record import ClassifierRecord
from ltx.checkpoints.wandb_artifacts import SCHEME, fetch
from ltx.classifier.weight_files import check_finite
from ltx.explainers.mask_network import MaskNetwork
from ltx.runtime.atomic_files import write_all_atomically
from ltx.runtime.errors import InputError, first_line
from ltx.runtime.file_names import TEXT
from ltx.runtime.shipped import shipped
from ltx.runtime.yaml_files import read_yaml

TENSORS, CONFIG, CARD = "explainer.safetensors", "config.yaml", "README.md"


def save_checkpoint(
    folder: str | Path,
    explainer: MaskNetwork,
    config: dict[str, Any],
    card: str | None = None,
    half: bool = False,
    tensors: dict[str, Tensor] | None = None,
) -> None:
    """Write `explainer.safetensors`, `config.yaml` and, if given, the card `README.md`, all atomically.

    The classifier's weights are not stored; a record identifies it, see `ClassifierRecord`.

    Args:
        folder: the checkpoint's folder; created if missing.
        explainer: the mask network.
        config: the resolved configuration; its groups `classifier` and `explainer` rebuild the network.
        card: text of the model card; None = leave the file unchanged.
        half: store the tensors in float16.
        tensors: the network's state; None = `explainer.state_dict()`, which is incomplete under FSDP.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = explainer.state_dict() if tensors is None else tensors
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(f"tensors[{name!r}] is of type {type(value).__name__}; give a tensor")
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if half:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    record = ClassifierRecord.of(explainer.classifier, explainer.stages if explainer.shares_trunk else None)
    contents = {folder / CONFIG: yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()}
    if card is not None:
        contents[folder / CARD] = card.encode(**TEXT)  # file names in it need not be UTF-8
    # A single metadata entry: safetensors writes several in no fixed order, and equal networks should be equal bytes.
    contents[folder / TENSORS] = save(tensors, metadata={"made_for": record.to_json()})
    write_all_atomically(contents)  # after a full disk, network and settings still belong together


def located(path: str | Path) -> Path:
    """The folder of a checkpoint: an existing folder, a shipped one (`NAME` or `checkpoints/NAME`), or `wandb:…`."""
    if str(path).startswith(SCHEME):
        return fetch(str(path))
    folder = Path(path)
    if folder.exists():
        return folder
    return shipped(folder) or shipped(Path("checkpoints") / folder) or folder


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder.

    Raises:
        InputError: they cannot be read, or are not finite.
    """
    try:
        with safe_open(folder / TENSORS, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise _unreadable(folder, error) from error
    check_finite(tensors, f"checkpoint={folder}: {TENSORS}")
    return tensors


def read_record(folder: Path) -> ClassifierRecord:
    """The classifier that a checkpoint was trained for.

    Raises:
        InputError: the file of the tensors cannot be read.
    """
    try:
        with safe_open(folder / TENSORS, framework="pt") as stored:
            return ClassifierRecord.from_json((stored.metadata() or {}).get("made_for", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a checkpoint folder.

    Raises:
        InputError: it is not a YAML mapping, or its classifier or explainer is not.
    """
    try:
        config = read_yaml(folder / CONFIG)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"checkpoint={folder}: {CONFIG} cannot be read ({first_line(error)})") from error
    if not isinstance(config, dict):
        raise InputError(f"checkpoint={folder}: {CONFIG} is not a mapping of settings")
    if not config:
        raise InputError(f"checkpoint={folder}: {CONFIG} contains no settings")
    for group in ("classifier", "explainer"):
        if not isinstance(config.get(group) or {}, dict):
            raise InputError(f"checkpoint={folder}: {CONFIG}: {group} is not a mapping of settings")
    return config


def identity(folder: Path) -> str:
    """A hash of the files that determine a checkpoint's masks: tensors and configuration."""
    return hashlib.sha256((folder / TENSORS).read_bytes() + (folder / CONFIG).read_bytes()).hexdigest()


def _unreadable(folder: Path, error: Exception) -> InputError:
    return InputError(f"checkpoint={folder}: {TENSORS} cannot be read ({error}); copy it again, or train it again")
