"""The settings of each benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx.classifier.settings import ClassifierConfig
from ltx.config.options import option
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.area_sampling import SWEEP
from ltx.objectives.settings import ObjectiveConfig

TITLES = {
    "one_pass": "amortised, one pass",
    "finetuned": "amortised, {finetuning_steps} steps",
    "fitted": "fitted from scratch, {steps} steps",
    "extremal": "extremal perturbation, {extremal_steps} steps",
}
WAYS = tuple(TITLES)
MODELS = ["vit_base_patch16_224", "deit_tiny_patch16_224", "tf_efficientnet_lite0", "resnet50"]
VARIANTS = ["fp32", "bf16", "fp32+compile", "bf16+compile"]
IMAGENET = 1_281_167


@dataclass
class AttributeBench:
    """What is measured."""

    classifier: ClassifierConfig = option(
        ClassifierConfig,
        help="a vision transformer; the default, which is none, stands for deit_tiny_patch16_224 with random weights",
    )
    images: Any = option("scikit-image", help="images; the first `count` are used, repeated if there are fewer")
    count: int = option(16, help="images in the batch")
    steps: int = option(5, help="intervals of each integral: 5 = 6 x 6 points")
    max_batch: int = option(16, help="rows of one forward pass")
    tolerance: float = option(0.05, help="what the economical run may leave out, see ltx.attribution.attention_path")
    looped: int = option(2, help="images that the loop explains in each turn; its time an image does not depend on it")
    repeats: int = option(3, help="counted turns")
    memory_images: int = option(0, help="explain so many images and print the memory on the way; 0 = do not")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class DataBench:
    """What is measured."""

    images: Any = option("scikit-image", help="photographs; JPEGs of the given longer side are made of them first")
    side: int = option(500, help="longer side of the JPEGs")
    count: int = option(64, help="JPEGs; photographs are repeated, turned by quarters, if there are fewer")
    size: int = option(224, help="height and width of the crops")
    crop_scale: list[float] = option([0.35, 1.0], help="area range of the random resized crop, of all loaders")
    workers: int = option(0, help="loading processes of each loader; 0 measures one core")
    batch_size: int = option(16, help="images of a batch")
    repeats: int = option(5, help="counted turns; each reads all JPEGs once")


@dataclass
class EvaluateBench:
    """What is measured."""

    classifier: ClassifierConfig = option(ClassifierConfig, "the explained model")
    images: Any = option("scikit-image", "images; the first `count` are used, repeated if there are fewer")
    count: int = option(8, "images")
    max_batch: int | None = option(None, "images in one forward pass, at most; null = 8 on a CPU, 256 on a GPU")
    repeats: int = option(3, "counted turns")
    quantus: bool = option(True, "time Quantus too (pip install quantus)")
    device: str = option("auto", "auto, cpu, cuda, …")


@dataclass
class FinetuneBench:
    """What is measured."""

    checkpoint: str | None = option(None, help="folder that train.py wrote; null = an untrained explainer")
    classifier: ClassifierConfig = option(ClassifierConfig, help="the explained model, where checkpoint is null")
    explainer: ExplainerConfig = option(ExplainerConfig, help="the mask network, where checkpoint is null")
    weights: str | None = option(None, help="the classifier's weights, if not where they were in training")
    images: Any = option("scikit-image", help="images; the first `count` are used, repeated if there are fewer")
    count: int = option(16, help="images at once")
    steps: int = option(5, help="finetuning steps of a run")
    scope: str = option("decoder", help="parameters that each image adapts", choices=["head", "decoder", "all"])
    repeats: int = option(3, help="counted turns")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class INRBench:
    """What is measured."""

    checkpoint: str | None = option(None, help="amortised INR that train.py wrote; null = an untrained one")
    classifier: ClassifierConfig = option(
        ClassifierConfig, help="the explained model; with a checkpoint its weights and precision alone"
    )
    images: Any = option("scikit-image", help="images, of which `count` are used, evenly spread; repeated if fewer")
    count: int = option(16, help="images at once")
    ways: list[str] = option(list(WAYS), help=f"of making masks: {', '.join(WAYS)}")
    compare: list[str] = option(list, help="methods whose maps are cut at the same areas: iia, ltx:FOLDER, …")
    steps: int = option(5, help="steps of the INRs that are fitted from scratch")
    finetuning_steps: int = option(5, help="steps of the amortised one that is finetuned")
    extremal_steps: int = option(5, help="steps of extremal perturbation, 800 as published")
    nested: bool = option(True, help="of the INRs that are fitted from scratch")
    areas: list[float] = option(list(SWEEP), help="areas whose masks are compared")
    continuity: bool = option(True, help="also masks 0.01 larger, which doubles what extremal perturbation takes")
    repeats: int = option(1, help="counted turns, after one that is not; 0 = no times, one run of each for the masks")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class MasksBench:
    """What is measured."""

    checkpoint: str = option("runs/train", help="folder that train.py wrote")
    weights: str | None = option(None, help="the classifier's weights, if not where they were in training")
    precision: str = option("fp32", help="of the classifier's forward pass", choices=["fp32", "bf16"])
    images: Any = option("scikit-image", help="images that the explainer was not trained on")
    limit: int | None = option(None, help="the first so many images; null = all")
    steps: list[int] = option([0, 25], help="finetuning steps, a row each")
    lr: float | None = option(None, help="learning rate of finetuning; null = finetune's own")
    scope: str = option("decoder", help="parameters that each image adapts", choices=["head", "decoder", "all"])
    area_weight: float | None = option(None, help="of finetuning: weight of the area term; null = as in training")
    fill: str = option("black", help="what replaces removed pixels")
    mosaics: int = option(100, help="pairs of photographs side by side; 0 = none")
    batch_size: int = option(20, help="images at once")
    seed: int = option(0, help="of the pairs")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class MultipleBench:
    """What is measured."""

    checkpoint: str | None = option(None, help="amortised INR that train.py wrote; null = one is fitted to each mosaic")
    classifier: ClassifierConfig = option(
        ClassifierConfig, help="the explained model; with a checkpoint its weights and precision alone"
    )
    images: Any = option("scikit-image", help="photographs, some of the same predicted class")
    mosaics: int = option(50, help="pairs side by side, each of which is sufficient on its own")
    steps: int = option(25, help="optimiser steps for each explanation; with a checkpoint 0 = one pass")
    share: float = option(0.9, help="of the probability that an explanation must keep")
    most: int = option(4, help="explanations of a mosaic, at most")
    reaches: list[float] | None = option(
        None, help="masks also gather around the most important place, so far; null = 0.5 and 0.25; [] = they do not"
    )
    largest: float = option(0.5, help="no larger area is an explanation")
    batch_size: int = option(10, help="mosaics at once")
    gallery: int = option(8, help="pictures written")
    seed: int = option(0, help="of the pairs")
    device: str = option("auto", help="auto, cpu, cuda, …")
    out: str = option("runs/multiple", help="folder of the pictures")


@dataclass
class ScaleBench:
    """What is measured, and what is assumed."""

    models: list[str] = option(MODELS, help="timm names; random weights")
    variants: list[str] | None = option(
        None, help="of the classifier; null = all of them on a GPU, fp32 and bf16 without", choices=[*VARIANTS, None]
    )
    batch_size: int | None = option(None, help="images a step; null = 64 on a GPU, 2 without")
    repeats: int | None = option(None, help="counted turns, after one that is not; null = 10 on a GPU, 1 without")
    device: str = option("auto", help="auto, cpu, cuda, …")
    processes: list[int] = option([1, 2], help="sizes of the trainings that are compared; [] = none")
    training: str = option("deit_tiny_patch16_224", help="model of these trainings")
    training_steps: int = option(13, help="their steps, of which the first three are not counted")
    images: int = option(IMAGENET, help="images of the estimated training")
    epochs: float = option(10.0, help="its epochs")
    gpus: list[int] = option([1, 8, 64], help="its numbers of GPUs")
    efficiency: list[float] = option([1.0, 0.95, 0.9], help="assumed: images/s a GPU, as a share of that on one")
    price: float = option(2.5, help="assumed: US dollars for an hour of one GPU")
    rates: dict[str, float] = option({}, help="images/s of one GPU, where known, as rates.resnet50=900")
    tflops: float = option(50.0, help="assumed without a GPU and without rates: TFLOP/s that one GPU sustains")


@dataclass
class TrainBench:
    """What is measured."""

    classifier: ClassifierConfig = option(ClassifierConfig, help="the explained model")
    explainer: ExplainerConfig = option(ExplainerConfig, help="the mask network")
    objective: ObjectiveConfig = option(ObjectiveConfig, help="the terms")
    fill: Any = option(["black", "blur"], help="what replaces removed pixels")
    batch_size: int = option(16, help="images a step")
    repeats: int = option(7, help="counted turns")
    device: str = option("auto", help="auto, cpu, cuda, …")
