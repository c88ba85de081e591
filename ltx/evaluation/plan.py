"""What an evaluation will do: settings checked, and the things they name built, before any work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from ltx.classifier import Classifier, pick_device
from ltx.data.images import ImageBatches, find_images
from ltx.errors import InputError, suggest
from ltx.evaluation.methods import Method, build_methods
from ltx.evaluation.partial import Store
from ltx.evaluation.progress import progress_bar
from ltx.evaluation.samples import Mosaics, Photographs, Samples, find_labels
from ltx.evaluation.settings import EvaluationConfig
from ltx.metrics import PROTOCOLS, Protocol, Settings
from ltx.metrics.mosaic import plan_mosaics


@dataclass
class Evaluation:
    """Everything an evaluation needs, built and checked before any work."""

    config: EvaluationConfig
    classifier: Classifier
    protocols: list[Protocol]
    methods: list[Method]
    left_out: dict[str, str]
    samples: Samples
    store: Store
    unreadable: list[tuple[str, str]]

    @property
    def target(self) -> str:
        """The class explained, in words."""
        return "the class of one cell" if isinstance(self.samples, Mosaics) else self.config.target

    def piece_path(self, method: Method, chunk: int) -> Path:
        """Where this method's result on this chunk is kept, named by all that determines it."""
        config = self.config
        second = self.protocols[0].settings.second
        determined_by = {
            "versions": [torch.__version__, timm.__version__],
            "device": self.classifier.device.type,
            "threads": torch.get_num_threads(),
            "classifier": [_fingerprint(self.classifier), self.classifier.precision, self.classifier.input_size],
            "second": [_fingerprint(second), second.precision, second.input_size] if second else None,
            "method": [method.text, method.identity],
            "protocols": [protocol.name for protocol in self.protocols],
            "settings": [config.fills, config.target, config.seed, config.batch_size, config.max_batch, config.gallery],
            "chunk": self.samples.identity(chunk),
        }
        return self.store.path(method.label, chunk, determined_by)


def _fingerprint(classifier: Classifier) -> str:
    # Hashing the weights takes a while, and thousands of pieces ask.
    known = _FINGERPRINTS.get(id(classifier))
    if known is None:
        known = _FINGERPRINTS[id(classifier)] = (classifier, classifier.fingerprint())
    return known[1]


_FINGERPRINTS: dict[int, tuple[Classifier, str]] = {}


# -- building ------------------------------------------------------------------------------------------------------


def build(config: EvaluationConfig, rank: int = 0) -> Evaluation:
    """Check the settings and build what they name; nothing is explained yet.

    Raises:
        InputError: anything unknown, missing or impossible; one line.
    """
    names = [name.strip() for name in config.protocol.split("+")]
    for name in names:
        if name not in PROTOCOLS:
            raise InputError(f"protocol={name!r} is unknown{suggest(name, PROTOCOLS)}; allowed: {', '.join(PROTOCOLS)}")
    if "mosaic" in names and {"information", "localisation"} & set(names):
        raise InputError(f"protocol={config.protocol}: mosaics have no masks and no files; run mosaic on its own")
    if "mosaic" in names and config.target == "label":
        raise InputError("target=label does not go with protocol=mosaic, which explains the class of a cell")
    if "localisation" in names and config.masks is None:
        raise InputError("protocol=localisation needs object masks; give masks=FOLDER")
    if config.masks is not None and not Path(config.masks).is_dir():
        raise InputError(f"masks={config.masks} is no folder; give one with a mask NAME.png for each image NAME.jpg")
    limits = {"batch_size": 1, "max_batch": 1, "resamples": 1, "mosaics": 1, "limit": 1, "gallery": 0}
    for key, least in limits.items():
        value = getattr(config, key)
        if value is not None and value < least:
            raise InputError(f"{key}={value}; give {least} or more")
    files = find_images(config.images)[: config.limit]
    device = pick_device(config.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    classifier = config.classifier.build().to(device)
    if config.target not in ("predicted", "label"):
        classifier.class_index(config.target)
    second = config.second.build().to(device) if config.second.name and "transfer" in names else None
    settings = Settings(config.max_batch, config.seed, config.fills, second)
    protocols = [PROTOCOLS[name](settings) for name in names]
    has_masks = config.masks is not None and "mosaic" not in names
    methods, left_out = build_methods(config.methods, classifier, config.seed, has_masks, config.max_batch)
    samples: Samples
    unreadable: list[tuple[str, str]] = []
    if "mosaic" in names:
        samples, unreadable = _mosaics(config, classifier, files, rank)
    else:
        roots = [str(part) for part in (config.images if isinstance(config.images, list) else [config.images])]
        labels = find_labels(files, config.labels, roots) if config.target == "label" else None
        masks = Path(config.masks) if config.masks is not None else None
        samples = Photographs(files, classifier.input_size, config.batch_size, labels, masks)
    store = Store(Path(config.out) / "partial")
    return Evaluation(config, classifier, protocols, methods, left_out, samples, store, unreadable)


@torch.no_grad()
def _mosaics(
    config: EvaluationConfig, classifier: Classifier, files: list[Path], rank: int
) -> tuple[Mosaics, list[tuple[str, str]]]:
    """Mosaics of the photographs, after one pass of the classifier over them."""
    batches = ImageBatches(files, classifier.input_size, config.max_batch)
    readable: list[Path] = []
    classes: list[int] = []
    with progress_bar("predicting", rank) as progress:
        task = progress.add_task("", total=len(files), rate="")
        for names, images in batches:
            classes += classifier(images.to(classifier.device)).argmax(1).tolist()
            readable += names
            progress.update(task, completed=len(readable))
    plan = plan_mosaics(classes, config.mosaics, config.seed)
    unreadable = [(str(file), reason) for file, reason in batches.skipped.files]
    return Mosaics(readable, classes, plan, classifier.input_size, config.batch_size), unreadable
