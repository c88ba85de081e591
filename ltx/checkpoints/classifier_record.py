"""What a checkpoint records of its classifier, and whether it fits another one."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltx.classifier.classifier import Classifier
from ltx.classifier.identity import computes_elsewhere, pictures
from ltx.runtime.errors import InputError
from ltx.runtime.json_text import parse_json

ALIKE = 0.15
"""Largest relative difference of the logits at which two heads count as the same.

DeiT-Tiny with its LayerNorms rounded to multiples of 1/32 differs by 0.10, with a tenth of noise on all weights by 0.6.
"""

SAME_TRUNK = 0.01
"""Largest relative difference of the feature maps at which two trunks count as the same: rounding, half precision."""

MOVED_TRUNK = 0.9
"""Largest relative difference of the feature maps at which an explainer accepts a finetuned trunk.

Features that have nothing in common differ by 1 or more. EfficientNet-Lite0 finetuned on 1,000 images (AdamW, 1e-4)
differs by 0.72 after one epoch and by 0.79 after five, and its shipped explainer is ahead of Grad-CAM there; after
three more at 3e-4 it differs by 0.96, and the explainer is level with Grad-CAM until it has trained on; a random one
differs by 1.8.
"""

FIX = "name the weights that it was trained with, classifier.weights=FILE, or train an explainer for this classifier"

SKETCH_SIZE = 256
"""Numbers that a feature map is projected to; distances are preserved to about `sqrt(2 / SKETCH_SIZE)`, 9 %."""

LOGITS_KEPT = 1000


@dataclass(frozen=True)
class ClassifierRecord:
    """The classifier that an explainer was trained for.

    Attributes:
        name: its name.
        num_classes: its number of classes; None = not recorded.
        fingerprint: see `Classifier.fingerprint`.
        reading: head, mean and standard deviation: how pixels become inputs and logits become probabilities.
        logits: logits for two fixed images, `[2][K]`, up to 1,000 classes.
        stages: the feature maps that the explainer reads; None = all, or no maps are recorded.
        sketches: random projections of these maps and of the final map for four fixed images, `[maps][4][256]`; None =
            the classifier has no feature maps, or the checkpoint was written by version 0.1.
    """

    name: str
    num_classes: int | None
    fingerprint: str
    reading: list[Any]
    logits: list[list[float]] | None
    stages: list[int] | None = None
    sketches: list[list[list[float]]] | None = None

    @classmethod
    def of(cls, classifier: Classifier, stages: list[int] | None) -> ClassifierRecord:
        """The record of a classifier, for an explainer that reads these of its feature maps."""
        return cls(
            name=classifier.name,
            num_classes=classifier.num_classes,
            fingerprint=classifier.fingerprint(),
            reading=[classifier.head, *(values.flatten().tolist() for values in classifier.normalisation)],
            logits=_logits(classifier),
            stages=stages,
            sketches=_sketches(classifier, stages),
        )

    def to_json(self) -> str:
        """The record as text, for the metadata of `explainer.safetensors`."""
        about = {
            "classifier": self.name,
            "fingerprint": self.fingerprint,
            "num_classes": str(self.num_classes),
            "reading": self.reading,
            "answers": self.logits,
            "stages": self.stages,
            "features": self.sketches,
        }
        return json.dumps({key: value for key, value in about.items() if value is not None})

    @classmethod
    def from_json(cls, text: str) -> ClassifierRecord:
        """Read a record; keys that earlier versions did not write are None.

        Raises:
            ValueError: the text is not a record.
        """
        about = parse_json(text)
        if not isinstance(about, dict):
            raise ValueError(f"the record is a {type(about).__name__}, not a mapping")
        classes = about.get("num_classes")
        return cls(
            name=about.get("classifier", "an unnamed classifier"),
            num_classes=None if classes is None else int(classes),
            fingerprint=about.get("fingerprint", ""),
            reading=about.get("reading", []),
            logits=about.get("answers"),
            stages=about.get("stages"),
            sketches=about.get("features"),
        )

    def describe(self) -> str:
        """Name and number of classes."""
        return self.name if self.num_classes is None else f"{self.name} with {self.num_classes} classes"


def check_fit(folder: Path, record: ClassifierRecord, classifier: Classifier, starts_training: bool = False) -> None:
    """Check that an explainer can explain a classifier: the trunk must be the same, the head may be another one.

    A trunk that was finetuned a little is accepted with a warning that gives the measured difference of its features.

    Args:
        folder: the checkpoint, for messages.
        record: the classifier that it was trained for.
        classifier: the classifier to explain.
        starts_training: the explainer is trained further, so that its trunk may have moved by any amount.

    Raises:
        InputError: another trunk or another normalisation; or the checkpoint does not record its trunk and the head is
            another one.
    """
    if record.fingerprint == classifier.fingerprint() and _computes_the_same(record, classifier):
        return
    here = ClassifierRecord.of(classifier, record.stages)
    trained_for = f"checkpoint={folder} was trained for {record.describe()}"
    if record.reading[1:] != here.reading[1:]:
        raise InputError(
            f"{trained_for} and the normalisation {record.reading[1:]}, not {here.reading[1:]}; "
            "set classifier.mean and classifier.std, or train an explainer for this classifier"
        )
    head_difference = _head_difference(record, here)
    same_head = head_difference <= ALIKE
    trunk_difference = _trunk_difference(record, here)
    if trunk_difference is None:  # without feature maps, only equal logits show that it is the same classifier
        if record.name != here.name or not same_head:
            why = "" if record.sketches is not None else "; it does not record the features of its trunk"
            raise InputError(f"{trained_for}, not for {here.describe()} or with other weights{why}; {FIX}")
        warnings.warn(
            f"{trained_for} and other weights; the logits differ by {head_difference:.1%}, so it is used", stacklevel=4
        )
    elif not trunk_difference <= MOVED_TRUNK:  # NaN is refused too
        moved = f"{trained_for}, not for {here.describe()}: the trunk's features differ by {trunk_difference:.0%}"
        same_model = record.name == here.name and math.isfinite(trunk_difference)
        if not starts_training or not same_model:
            start = f", from this one: init={folder}" if same_model else ""
            raise InputError(f"{moved} (up to {MOVED_TRUNK:.0%} is accepted); {FIX}{start}")
        warnings.warn(f"{moved}; compare a training from it with one without init=", stacklevel=4)
    elif trunk_difference > SAME_TRUNK:
        warnings.warn(
            f"{trained_for}, whose trunk's features differ by {trunk_difference:.1%} from those of this one; its masks "
            f"may be less faithful than after further training (init={folder})",
            stacklevel=4,
        )
    elif not same_head:
        warnings.warn(
            f"{trained_for}; the trunk is the same, so it explains this head with {here.num_classes} classes "
            f"({classifier.head}) without training",
            stacklevel=4,
        )
    else:
        warnings.warn(
            f"{trained_for} and other weights; the features differ by {trunk_difference:.1%}, so it is used",
            stacklevel=4,
        )


def _computes_the_same(record: ClassifierRecord, classifier: Classifier) -> bool:
    """Whether a classifier of equal weights has the recorded logits, as far as code besides the module matters."""
    if not computes_elsewhere(classifier):
        return True
    return _head_difference(record, ClassifierRecord.of(classifier, record.stages)) <= ALIKE


def _head_difference(stored: ClassifierRecord, here: ClassifierRecord) -> float:
    """Largest relative difference of the logits for an image; infinite for other classes or another kind of head."""
    theirs, ours = torch.tensor(stored.logits or [[]]), torch.tensor(here.logits or [[]])
    if theirs.shape != ours.shape or stored.num_classes != here.num_classes or stored.reading[:1] != here.reading[:1]:
        return float("inf")
    # What changes from image to image must agree too: logits of untrained models are nearly constant.
    absolute = ((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max()
    varying = (ours - theirs).diff(dim=0).norm() / theirs.diff(dim=0).norm() / 4
    return float(torch.maximum(absolute, varying))


def _trunk_difference(stored: ClassifierRecord, here: ClassifierRecord) -> float | None:
    """Relative difference of how the feature maps vary over images, mean over maps; None if it cannot be measured."""
    if stored.sketches is None or here.sketches is None:
        return None
    differences = []
    for theirs, ours in zip(stored.sketches, here.sketches, strict=False):
        before, now = (torch.tensor(sketch) - torch.tensor(sketch).mean(0) for sketch in (theirs, ours))
        if before.shape != now.shape:
            return float("inf")
        differences.append(float((now - before).norm() / before.norm()))
    same_maps = len(stored.sketches) == len(here.sketches) > 0
    return sum(differences) / len(differences) if same_maps else float("inf")


@torch.no_grad()
def _logits(classifier: Classifier) -> list[list[float]]:
    with torch.compiler.set_stance("force_eager"):  # two images are not worth a compilation
        logits = classifier(pictures(2, classifier))[:, :LOGITS_KEPT].float().cpu()
    return _rounded(logits)


@torch.no_grad()
def _sketches(classifier: Classifier, stages: list[int] | None) -> list[list[list[float]]] | None:
    try:
        classifier.feature_shapes(stages)
    except InputError:  # no feature maps, or not these
        return None
    with torch.compiler.set_stance("force_eager"):
        _, features = classifier.logits_and_features(pictures(4, classifier), stages)
    return [
        _rounded(_sketch(features_map.flatten(1).float().cpu())) for features_map in (*features.stages, features.final)
    ]


def _sketch(values: Tensor) -> Tensor:
    """Count sketch (Charikar et al. 2002) of the rows of `[B, N]`: `[B, SKETCH_SIZE]` with about the same distances."""
    signs = torch.randint(0, 2, (values.shape[1],), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    buckets = torch.arange(values.shape[1]) % SKETCH_SIZE
    return values.new_zeros(len(values), SKETCH_SIZE).index_add_(1, buckets, values * signs)


def _rounded(rows: Tensor) -> list[list[float]]:
    """Rows of numbers, to four digits."""
    return [[float(f"{value:.4g}") for value in row] for row in rows.tolist()]
