"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx.classifier.settings import ClassifierConfig
from ltx.config.options import option


@dataclass
class SecondClassifierConfig(ClassifierConfig):
    """The second classifier of the transfer check."""

    name: str = option("", "timm model name of a classifier that no method has seen; empty = none")


@dataclass
class EvaluationConfig:
    """Settings of an evaluation."""

    classifier: ClassifierConfig = option(ClassifierConfig, "the explained model")
    second: SecondClassifierConfig = option(SecondClassifierConfig, "the second classifier of protocol=transfer")
    methods: list[str] = option(
        ["iia", "gradcam", "random", "gaussian", "constant"],
        "attribution names, ltx:FOLDER, and the controls random, gaussian, constant, ground_truth; options as "
        "NAME@option=value (ltx:FOLDER@steps=25@select_by=positive), another label as LABEL=NAME",
        path=True,
    )
    images: Any = option(
        "scikit-image", "a file, folder, glob, .csv listing, scikit-image, or a list of these", path=True
    )
    protocol: str = option(
        "ltx",
        "ltx, standard, information, localisation, mosaic, sensitivity, stability, transfer; several as ltx+standard",
    )
    target: str = option("predicted", "target class: predicted, label, or one class for all images by index or name")
    labels: str | None = option(
        None, ".csv with file and class_index; null = the labels.csv next to the images", path=True
    )
    masks: str | None = option(
        None, "folder of object masks named like the images, for protocol=localisation", path=True
    )
    fills: list[str] = option(
        ["black", "mean", "blur"],
        "fills for removed pixels in protocol=standard",
        choices=("black", "mean", "blur", "noise"),
    )
    mosaics: int = option(200, "number of mosaics for protocol=mosaic")
    batch_size: int = option(16, "images explained at once")
    max_batch: int | None = option(
        None, "maximum number of images in one forward pass; bounds memory; null = 8 on a CPU, 256 on a GPU"
    )
    limit: int | None = option(None, "use only the first images, up to this number; null = all")
    seed: int = option(0, "random seed")
    resamples: int = option(1000, "bootstrap resamples of the 95 % intervals")
    gallery: int = option(6, "images shown in gallery.png; 0 = none")
    device: str = option("auto", "auto, cpu, cuda, …")
    out: str = option(
        "out/evaluate", "folder for the results; the same command resumes an interrupted evaluation", path=True
    )
