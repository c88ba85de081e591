"""Plan of an evaluation: settings are checked, and the classifier, methods and samples built, before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch

from ltx.classifier.classifier import Classifier
from ltx.classifier.identity import results_key
from ltx.data.finding import search_images
from ltx.data.image_batches import ImageBatches
from ltx.evaluation.methods import Method, build_methods
from ltx.evaluation.pieces import Store
from ltx.evaluation.samples import Mosaics, Photographs, Samples, find_labels, find_mask
from ltx.evaluation.settings import EvaluationConfig
from ltx.evaluation.sources import source_hash
from ltx.metrics.mosaic import plan_mosaics
from ltx.metrics.perturbation import default_max_batch
from ltx.metrics.protocol import Protocol, Settings
from ltx.metrics.registry import PROTOCOLS
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError, suggest
from ltx.runtime.progress import progress_bar

HARNESS = ("ltx.evaluation.computation", "ltx.evaluation.samples")
"""Modules that every piece depends on, with everything they import."""
DISPATCH = ("ltx.evaluation.methods", "ltx.attribution.attribute")
"""Modules that every piece depends on, but whose imports include other methods."""


@dataclass
class Evaluation:
    """Everything an evaluation needs, built and checked before any work.

    Attributes:
        second: the second classifier of the transfer check, if a protocol uses it.
        max_batch: maximum number of images in one forward pass.
        left_out: methods that do not support the classifier, with the reason.
        unreadable: files that were skipped before the samples were built, with the reason.
        determined_by: what all pieces depend on, regardless of method and chunk.
    """

    config: EvaluationConfig
    classifier: Classifier
    second: Classifier | None
    max_batch: int
    protocols: list[Protocol]
    methods: list[Method]
    left_out: dict[str, str]
    samples: Samples
    store: Store
    unreadable: list[tuple[str, str]]
    determined_by: list[object]
    _paths: dict[tuple[str, int], Path] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Description of the target class."""
        return "the class of one cell" if isinstance(self.samples, Mosaics) else self.config.target

    def piece_path(self, method: Method, chunk: int) -> Path:
        """The path of this method's result for this chunk, fixed when it is first requested."""
        if (method.label, chunk) not in self._paths:
            modules = {*method.modules, *(type(protocol).__module__ for protocol in self.protocols), *HARNESS}
            source = source_hash(modules, leaves=DISPATCH)
            specific = [method.text, method.identity, self.samples.identity(chunk), source]
            self._paths[method.label, chunk] = self.store.path(method.label, chunk, [*self.determined_by, *specific])
        return self._paths[method.label, chunk]


def _determined_by(
    config: EvaluationConfig, max_batch: int, classifier: Classifier, second: Classifier | None
) -> list[object]:
    """Versions, models and settings; also batch sizes and threads, because they change the last bits of a result."""
    models = [results_key(c) for c in (classifier, second) if c is not None]
    # The class index of a name depends on the class names of the classifier.
    target = config.target if config.target in ("predicted", "label") else classifier.class_index(config.target)
    settings = [config.protocol, config.fills, target, config.seed, config.batch_size, config.gallery]
    versions = [torch.__version__, timm.__version__]
    return [versions, models, classifier.device.type, torch.get_num_threads(), settings, max_batch]


# -- building ------------------------------------------------------------------------------------------------------


def build(config: EvaluationConfig, rank: int = 0) -> Evaluation:
    """Check the settings and build the classifier, protocols, methods and samples; nothing is explained yet.

    Raises:
        InputError: an unknown name, a missing file or an impossible combination, in one line.
    """
    names = protocol_names(config)
    found = search_images(config.images, Path(config.out))
    if rank == 0 and found.summary():
        print(found.summary())
    files = found.files
    masks = Path(config.masks) if config.masks is not None else None
    if config.labels is not None and not Path(config.labels).is_file():
        raise InputError(f"labels={config.labels} does not exist; give a .csv with the columns file and class_index")
    # The folder of masks may lie inside the folder of photographs. `find_mask` returns a mask file for itself.
    files = [file for file in files if masks is None or find_mask(masks, file) != file][: config.limit]
    if not files:
        raise InputError(f"images={config.images} contains only the masks of masks={masks}; give the photographs")
    device = pick_device(config.device)
    classifier = config.classifier.build().to(device).fold_norms()
    max_batch = config.max_batch or default_max_batch(device)
    if config.target not in ("predicted", "label"):
        classifier.class_index(config.target)
    transfer = config.second.name and "transfer" in names
    second = config.second.build().to(device).fold_norms() if transfer else None
    settings = Settings(max_batch, config.seed, config.fills, second)
    protocols = [PROTOCOLS[name](settings) for name in names]
    has_masks = config.masks is not None and "mosaic" not in names
    methods, left_out = build_methods(config.methods, classifier, config.seed, has_masks, max_batch)
    samples: Samples
    unreadable: list[tuple[str, str]] = []
    if "mosaic" in names:
        samples, unreadable = _mosaics(config, max_batch, classifier, files, rank)
    else:
        roots = [str(part) for part in (config.images if isinstance(config.images, list) else [config.images])]
        labels = find_labels(files, config.labels, roots) if config.target == "label" else None
        samples = Photographs(files, classifier.input_size, config.batch_size, labels, masks, classifier.channels)
    unreadable = [*found.failed, *unreadable]
    store = Store(Path(config.out) / "partial")
    determined_by = _determined_by(config, max_batch, classifier, second)
    return Evaluation(
        config, classifier, second, max_batch, protocols, methods, left_out, samples, store, unreadable, determined_by
    )


def protocol_names(config: EvaluationConfig) -> list[str]:
    """The names of an evaluation's protocols, after checking all settings that do not need files or models.

    Raises:
        InputError: an unknown protocol, an impossible combination or a number out of range.
    """
    names = [name.strip() for name in config.protocol.split("+")]
    for name in names:
        if name not in PROTOCOLS:
            raise InputError(f"protocol={name!r} is unknown{suggest(name, PROTOCOLS)}; allowed: {', '.join(PROTOCOLS)}")
    if len(set(names)) < len(names):
        raise InputError(f"protocol={config.protocol} contains a protocol twice")
    if {"mosaic", "localisation"} <= set(names):
        raise InputError(f"protocol={config.protocol}: mosaics have no object masks; evaluate the two separately")
    if "mosaic" in names and config.target != "predicted":
        raise InputError(
            f"target={config.target} cannot be combined with protocol=mosaic, which explains a cell's class"
        )
    if "localisation" in names and config.masks is None:
        raise InputError("protocol=localisation needs object masks; give masks=FOLDER")
    if config.masks is not None and not Path(config.masks).is_dir():
        raise InputError(f"masks={config.masks} is not a folder; give one with a mask NAME.png for each image NAME.jpg")
    limits = {"batch_size": 1, "max_batch": 1, "resamples": 1, "mosaics": 1, "limit": 1, "gallery": 0, "seed": 0}
    for key, least in limits.items():
        value = getattr(config, key)
        if value is not None and value < least:
            raise InputError(f"{key}={value}; give {least} or more")
    return names


@torch.no_grad()
def _mosaics(
    config: EvaluationConfig, max_batch: int, classifier: Classifier, files: list[Path], rank: int
) -> tuple[Mosaics, list[tuple[str, str]]]:
    """Build mosaics of the photographs after one forward pass over them."""
    batches = ImageBatches(files, classifier.input_size, max_batch, channels=classifier.channels)
    readable: list[Path] = []
    classes: list[int] = []
    with progress_bar("predicting", rank == 0) as progress:
        task = progress.add_task("", total=len(files), rate="")
        for names, images in batches:
            classes += classifier(images.to(classifier.device)).argmax(1).tolist()
            readable += names
            progress.update(task, completed=len(readable))
    plan = plan_mosaics(classes, config.mosaics, config.seed)
    unreadable = [(str(file), reason) for file, reason in batches.skipped.files]
    return Mosaics(readable, classes, plan, classifier.input_size, config.batch_size, classifier.channels), unreadable
