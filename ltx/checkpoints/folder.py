"""A checkpoint is a folder: the explainer's tensors, the resolved configuration, and a card."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ltx.checkpoints.wandb_artifacts import SCHEME, fetch
from ltx.classifier.classifier import Classifier
from ltx.classifier.settings import ClassifierConfig
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.runtime.atomic_files import write_all_atomically
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError
from ltx.runtime.file_names import TEXT
from ltx.runtime.shipped import shipped

TENSORS, CONFIG, CARD = "explainer.safetensors", "config.yaml", "README.md"
ALIKE = 0.15
"""Up to this difference of its logits a classifier of other weights counts as the one that an explainer was made for.
DeiT-Tiny with noise of 1/32 on its LayerNorms differs by 0.10, with a tenth of noise on all weights by 0.6."""


def save_checkpoint(
    folder: str | Path,
    explainer: MaskNetwork,
    config: dict[str, Any],
    card: str | None = None,
    half: bool = False,
    tensors: dict[str, Tensor] | None = None,
) -> None:
    """Write `explainer.safetensors`, `config.yaml` and, if given, the card `README.md`, all beside and then renamed.

    Args:
        config: the resolved configuration; its groups `classifier` and `explainer` rebuild the network.
        card: the model card's text.
        half: store the tensors in float16.
        tensors: the network's state; None = `explainer.state_dict()`, which is not all of it where devices share it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = explainer.state_dict() if tensors is None else tensors
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if half:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    classifier = explainer.classifier
    about = {
        "classifier": classifier.name,
        "fingerprint": classifier.fingerprint(),
        "num_classes": str(classifier.num_classes),
        "reading": reading(classifier),
        "answers": answers(classifier),
    }
    contents = {folder / CONFIG: yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()}
    if card is not None:
        contents[folder / CARD] = card.encode(**TEXT)  # names of files need not be UTF-8
    # One entry: safetensors writes several in no fixed order, and the same network should be the same bytes.
    contents[folder / TENSORS] = save(tensors, metadata={"made_for": json.dumps(about)})
    write_all_atomically(contents)  # a full disk leaves no other network's settings beside a network


def load(
    path: str | Path,
    classifier: Classifier | None = None,
    device: str | torch.device = "cpu",
    weights: str | None = None,
    precision: str = "fp32",
) -> MaskNetwork:
    """The explainer of a checkpoint folder, with its classifier, in eval mode.

    Args:
        path: the folder, the name of a shipped one (`tf_efficientnet_lite0`), or `wandb:ENTITY/PROJECT/NAME:ALIAS`, see
            `ltx.checkpoints.wandb_artifacts.fetch`.
        classifier: the explained model; None = rebuilt from the checkpoint's configuration.
        device: where both go; `auto` = a GPU where there is one.
        weights: where the classifier's weights are now, if not where they were in training.
        precision: of the rebuilt classifier's forward pass, whatever it was in training.

    Raises:
        InputError: no such folder, a file in it that cannot be read, or a checkpoint made for another classifier.
    """
    folder = located(path)
    if not (folder / TENSORS).is_file() or not (folder / CONFIG).is_file():
        raise InputError(f"checkpoint={folder} holds no {TENSORS} and {CONFIG}; give a folder that train.py wrote")
    config = read_config(folder)
    try:
        with safe_open(folder / TENSORS, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint={folder}: {TENSORS} cannot be read ({error}); copy or train it again") from error
    about = made_for(folder)
    if classifier is None:
        settings: ClassifierConfig = _group(config, "classifier", ClassifierConfig, folder)
        settings.precision = precision
        settings.weights = weights or settings.weights
        classifier = settings.build()
    _same_classifier(folder, about, classifier)
    explainer: MaskNetwork = _group(config, "explainer", ExplainerConfig, folder).build(classifier)
    wanted = explainer.state_dict()
    unfit = [
        f"{name} {tuple(tensors[name].shape) if name in tensors else 'absent'} in the file, "
        f"{tuple(wanted[name].shape) if name in wanted else 'absent'} in the network"
        for name in [*wanted, *(name for name in tensors if name not in wanted)]
        if name not in tensors or name not in wanted or tensors[name].shape != wanted[name].shape
    ]
    if unfit:
        raise InputError(f"checkpoint={folder} does not fit its own {CONFIG}: {'; '.join(unfit[:3])}")
    explainer.load_state_dict({name: value.to(wanted[name].dtype) for name, value in tensors.items()})
    explainer.made_with = config
    place = pick_device("auto") if device == "auto" else device
    classifier.to(place)
    return explainer.to(place).eval()


def located(path: str | Path) -> Path:
    """The folder of a checkpoint: an existing folder, a shipped one (`NAME` or `checkpoints/NAME`), or `wandb:…`."""
    if str(path).startswith(SCHEME):
        return fetch(str(path))
    folder = Path(path)
    if folder.exists():
        return folder
    return shipped(folder) or shipped(Path("checkpoints") / folder) or folder


def made_for(folder: Path) -> dict[str, Any]:
    """What the tensors of a checkpoint say of the classifier that they were made for; empty where they say nothing.

    Raises:
        InputError: they cannot be read.
    """
    try:
        with safe_open(folder / TENSORS, framework="pt") as stored:
            about: dict[str, Any] = json.loads((stored.metadata() or {}).get("made_for", "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"checkpoint={folder}: {TENSORS} cannot be read ({error}); copy or train it again") from error
    return about


def identity(folder: Path) -> str:
    """A hash of what determines a checkpoint's answers: its tensors and its configuration."""
    return hashlib.sha256((folder / TENSORS).read_bytes() + (folder / CONFIG).read_bytes()).hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a checkpoint folder.

    Raises:
        InputError: it is no YAML mapping.
    """
    try:
        config = yaml.safe_load((folder / CONFIG).read_text())
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"checkpoint={folder}: {CONFIG} cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(config, dict):
        raise InputError(f"checkpoint={folder}: {CONFIG} is no mapping of settings")
    return config


def _same_classifier(folder: Path, about: dict[str, Any], classifier: Classifier) -> None:
    made_for = about.get("classifier", "an unnamed classifier")
    if made_for != classifier.name or about.get("num_classes") != str(classifier.num_classes):
        raise InputError(
            f"checkpoint={folder} was made for {made_for} with {about.get('num_classes')} classes, "
            f"not for {classifier.name} with {classifier.num_classes}"
        )
    if about.get("fingerprint") == classifier.fingerprint():
        return
    differ = (
        f"was made for {made_for} with other weights or normalisation "
        f"(fingerprint {about.get('fingerprint')}, here {classifier.fingerprint()})"
    )
    difference = _difference(about.get("answers"), answers(classifier))
    if about.get("reading") != reading(classifier) or not difference <= ALIKE:  # not of NaN either
        raise InputError(f"checkpoint={folder} {differ}; name the weights it was trained with: classifier.weights=FILE")
    warnings.warn(
        f"checkpoint={folder} {differ}; the logits differ by {difference:.1%}, so it is used all the same",
        stacklevel=3,
    )


def reading(classifier: Classifier) -> list[Any]:
    """How images become inputs and logits become probabilities, as JSON keeps it: head, mean and deviation."""
    return [classifier.head, *(values.flatten().tolist() for values in classifier.normalisation)]


@torch.no_grad()
def answers(classifier: Classifier) -> list[list[float]]:
    """The classifier's logits, to four digits, for two fixed pictures of colour blotches: first 1,000 classes at most.

    They tell weights that were rounded or stored in half precision, whose fingerprint is another, from other weights.
    """
    blotches = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    pictures = F.interpolate(blotches, classifier.input_size, mode="bicubic").clamp(0, 1).to(classifier.device)
    with torch.compiler.set_stance("force_eager"):  # two pictures are no batch to compile for
        logits = classifier(pictures)[:, :1000].float().cpu()
    return [[float(f"{value:.4g}") for value in row] for row in logits.tolist()]


def _difference(stored: Any, here: list[list[float]]) -> float:
    """How far the logits lie from the stored ones, as a share of their norm, at most over the pictures."""
    theirs, own = torch.tensor(stored or [[]]), torch.tensor(here)
    if theirs.shape != own.shape:
        return float("inf")
    return float(((own - theirs).norm(dim=1) / theirs.norm(dim=1)).max())


def _group(config: dict[str, Any], name: str, schema: type[Any], folder: Path) -> Any:
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), config.get(name) or {}))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise InputError(f"checkpoint={folder}: {CONFIG}: {name}: {str(error).splitlines()[0]}") from error
