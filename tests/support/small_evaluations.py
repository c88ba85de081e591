"""Evaluations of six small photographs by a small classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ltx.classifier.settings import ClassifierConfig
from ltx.evaluation.settings import EvaluationConfig


def small_classifier(place: Path) -> ClassifierConfig:
    return ClassifierConfig("resnet10t", str(place / "weights.safetensors"), num_classes=4, input_size=64)


def settings(place: Path, out: Path, **changes: object) -> EvaluationConfig:
    config = EvaluationConfig(
        classifier=small_classifier(place),
        methods=["gradcam", "random", "constant"],
        images=str(place / "images"),
        batch_size=2,
        resamples=200,
        gallery=3,
        device="cpu",
        out=str(out),
    )
    return replace(config, **changes)  # type: ignore[arg-type]
