"""The settings of each benchmark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ltx.classifier.settings import ClassifierConfig
from ltx.config.options import check_ranges, option
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.area_sampling import SWEEP
from ltx.objectives.settings import ObjectiveConfig
from ltx.runtime.errors import InputError

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
PEER_NAMES = (
    *("gradcam", "gradcam++", "layercam", "integrated_gradients", "occlusion", "pixel_flipping"),
    *("extremal_perturbation", "loader", "finetuning", "finetuning_with_metrics", "iia"),
)
GPU_ITEMS = ("equality", "training", "explanations", "processes", "recipe")
GPU_IMAGES_PER_STEP = 8
"""Images of a training step of `GPUBench.processes`, shared by all processes."""
POSITIVE = (1, math.inf)


@dataclass
class AttributeBench:
    """Settings of the benchmark."""

    classifier: ClassifierConfig = option(
        ClassifierConfig,
        help="a vision transformer; the default name stands for deit_tiny_patch16_224 with random weights",
    )
    images: Any = option(
        "scikit-image", help="images; the first `count` are used, repeated if there are fewer", path=True
    )
    count: int = option(16, help="images in the batch")
    steps: int = option(5, help="intervals of each integral: 5 = 6 x 6 points")
    max_batch: int | None = option(None, help="maximum batch size of a forward pass; null = the default of the machine")
    looped: int = option(2, help="images that the loop explains in each turn; its time per image is constant")
    repeats: int = option(3, help="timed runs after a warm-up")
    memory_images: int = option(0, help="number of images to explain while printing memory; 0 = skip")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class DataBench:
    """Settings of the benchmark."""

    images: Any = option(
        "scikit-image", help="photographs; they are first written as JPEGs of the given longer side", path=True
    )
    side: int = option(500, help="longer side of the JPEGs")
    count: int = option(64, help="number of JPEGs; photographs are repeated with rotations if there are fewer")
    size: int = option(224, help="height and width of the crops")
    crop_scale: list[float] = option([0.35, 1.0], help="area range of the random resized crop, for all loaders")
    workers: int = option(0, help="loader processes; 0 measures one core")
    batch_size: int = option(16, help="images of a batch")
    repeats: int = option(5, help="timed runs after a warm-up; each reads all JPEGs once")

    def __post_init__(self) -> None:
        check_ranges("", self, side=POSITIVE, count=POSITIVE, size=POSITIVE, workers=(0, math.inf), repeats=POSITIVE)
        check_ranges("", self, batch_size=(1, self.count))
        scale = self.crop_scale
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise InputError(f"crop_scale={scale}; give two shares of the area, 0 < low <= high <= 1")


@dataclass
class EvaluateBench:
    """Settings of the benchmark."""

    classifier: ClassifierConfig = option(ClassifierConfig, "the explained model")
    images: Any = option("scikit-image", "images; the first `count` are used, repeated if there are fewer", path=True)
    count: int = option(8, "images")
    max_batch: int | None = option(
        None, "maximum number of images in one forward pass; null = 8 on a CPU, 256 on a GPU"
    )
    repeats: int = option(3, "timed runs after a warm-up")
    quantus: bool = option(True, "also time Quantus (pip install quantus)")
    device: str = option("auto", "auto, cpu, cuda, …")


@dataclass
class ExplainBench:
    """Settings of the benchmark."""

    checkpoint: str = option(
        "tf_efficientnet_lite0", help="folder of a checkpoint, or the name of a shipped one", path=True
    )
    weights: str | None = option(None, help="weights of the classifier, if they have moved since training", path=True)
    precisions: list[str] = option(["fp32", "bf16"], help="precisions of the classifier", choices=["fp32", "bf16"])
    images: Any = option(
        "scikit-image", help="images; the first `count` are used, repeated if there are fewer", path=True
    )
    count: int = option(16, help="images at once")
    repeats: int = option(5, help="timed runs after a warm-up")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class FinetuneBench:
    """Settings of the benchmark."""

    checkpoint: str | None = option(None, help="folder that ltx train wrote; null = an untrained explainer", path=True)
    classifier: ClassifierConfig = option(ClassifierConfig, help="the explained model, if checkpoint is null")
    explainer: ExplainerConfig = option(ExplainerConfig, help="the mask network, if checkpoint is null")
    weights: str | None = option(None, help="weights of the classifier, if they have moved since training", path=True)
    precision: str = option(
        "fp32", help="precision of the classifier's forward pass, if there is a checkpoint", choices=["fp32", "bf16"]
    )
    images: Any = option(
        "scikit-image", help="images; the first `count` are used, repeated if there are fewer", path=True
    )
    count: int = option(16, help="images at once")
    steps: int = option(5, help="finetuning steps of a run")
    scope: str = option(
        "decoder", help="parameters that are adapted for each image", choices=["head", "decoder", "all"]
    )
    repeats: int = option(3, help="timed runs after a warm-up")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class GPUBench:
    """Settings of the benchmark."""

    out: str = option("out/gpu", help="folder for gpu.md, gpu.json and the trained explainer", path=True)
    items: list[str] = option(list(GPU_ITEMS), help=f"measurements, in this order: {', '.join(GPU_ITEMS)}")
    minutes: float = option(6.0, help="time limit; measurements that no longer fit are skipped")
    models: list[str] | None = option(
        None, help="classifiers; null = EfficientNet-Lite0, DeiT-Tiny, ResNet-50 and ViT-B/16, on a CPU the first two"
    )
    weights: dict[str, str] = option(
        {}, help="weights by model, as weights.deit_tiny_patch16_224=FILE; others random", path=True
    )
    input_size: int | None = option(None, help="height and width of the images; null = as each model requires")
    images: Any = option("scikit-image", help="photographs for all measurements", path=True)
    batch_size: int | None = option(None, help="images per training step; null = 64 on a GPU, 2 on a CPU")
    compile: bool = option(False, help="also time bf16 with torch.compile on a CPU; a GPU always times it")
    repeats: int | None = option(None, help="timed runs after a warm-up; null = 5 on a GPU, 1 on a CPU")
    counts: list[int] | None = option(None, help="images finetuned at once; null = 1, 16, 64, 256; on a CPU 1, 4")
    steps: int | None = option(None, help="finetuning steps; null = 25 on a GPU, 2 on a CPU")
    checkpoint: str | None = option(
        "tf_efficientnet_lite0", help="explainer to time and compare; null = an untrained one", path=True
    )
    inr_checkpoint: str | None = option("tf_efficientnet_lite0_inr", help="amortised INR to time; null = none")
    processes: list[int] = option([1, 2], help="numbers of processes on one device that are compared")
    process_steps: int = option(6, help="steps of the trainings with several processes")
    recipe: str | None = option(None, help="configuration file of the training; null = the defaults of ltx train")
    recipe_steps: int | None = option(None, help="steps of the training; null = as many as the remaining time allows")
    recipe_batch: int = option(16, help="images per step of the training")
    train_images: Any = option(None, help="training photographs; null = images", path=True)
    val_images: Any = option(None, help="photographs for its scores; null = images", path=True)
    val_limit: int | None = option(None, help="number of photographs for its scores; null = all")
    device: str = option("auto", help="auto, cpu, cuda, …")

    def __post_init__(self) -> None:
        check_ranges("", self, batch_size=POSITIVE, repeats=POSITIVE, steps=POSITIVE, process_steps=POSITIVE)
        check_ranges("", self, recipe_steps=POSITIVE, recipe_batch=POSITIVE, val_limit=POSITIVE)
        images = GPU_IMAGES_PER_STEP
        divisors = [count for count in range(1, images + 1) if images % count == 0]
        if not set(self.processes) <= set(divisors):
            allowed = ", ".join(map(str, divisors))
            raise InputError(
                f"processes={self.processes}; give numbers that divide the {images} images of a step: {allowed}"
            )


@dataclass
class INRBench:
    """Settings of the benchmark."""

    checkpoint: str | None = option(None, help="amortised INR that ltx train wrote; null = an untrained one", path=True)
    classifier: ClassifierConfig = option(
        ClassifierConfig, help="the explained model; with a checkpoint only its weights and precision are used"
    )
    images: Any = option(
        "scikit-image", help="images; `count` of them, evenly spaced, are used, repeated if there are fewer", path=True
    )
    count: int = option(16, help="images at once")
    ways: list[str] = option(list(WAYS), help=f"methods that are timed: {', '.join(WAYS)}")
    compare: list[str] = option(
        list, help="methods whose maps are thresholded at the same areas: iia, ltx:FOLDER, …", path=True
    )
    steps: int = option(5, help="steps of INRs fitted from scratch")
    finetuning_steps: int = option(5, help="finetuning steps of the amortised INR")
    extremal_steps: int = option(5, help="steps of extremal perturbation; 800 as published")
    nested: bool = option(True, help="nested masks for INRs fitted from scratch")
    areas: list[float] = option(list(SWEEP), help="areas whose masks are compared")
    continuity: bool = option(True, help="also compute masks 0.01 larger; doubles the cost of extremal perturbation")
    repeats: int = option(1, help="timed runs after a warm-up; 0 = run once without timing")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class MasksBench:
    """Settings of the benchmark."""

    checkpoint: str = option("runs/train", help="folder that ltx train wrote", path=True)
    weights: str | None = option(None, help="weights of the classifier, if they have moved since training", path=True)
    precision: str = option("fp32", help="precision of the classifier's forward pass", choices=["fp32", "bf16"])
    images: Any = option("scikit-image", help="images that the explainer was not trained on", path=True)
    limit: int | None = option(None, help="number of images; null = all")
    steps: list[int] = option([0, 25], help="numbers of finetuning steps, one row each")
    lr: float | None = option(None, help="learning rate of finetuning; null = the default of ltx finetune")
    scope: str = option(
        "decoder", help="parameters that are adapted for each image", choices=["head", "decoder", "all"]
    )
    area_weight: float | None = option(None, help="weight of the area term in finetuning; null = as in training")
    fill: str = option("black", help="fill for removed pixels")
    mosaics: int = option(100, help="number of pairs of photographs side by side; 0 = none")
    batch_size: int = option(20, help="images at once")
    seed: int = option(0, help="random seed of the pairs")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class MultipleBench:
    """Settings of the benchmark."""

    checkpoint: str | None = option(
        None, help="amortised INR that ltx train wrote; null = fit one to each mosaic", path=True
    )
    classifier: ClassifierConfig = option(
        ClassifierConfig, help="the explained model; with a checkpoint only its weights and precision are used"
    )
    images: Any = option("scikit-image", help="photographs; some must have the same predicted class", path=True)
    mosaics: int = option(50, help="number of pairs side by side, each photograph sufficient alone")
    steps: int = option(25, help="optimiser steps for each explanation; with a checkpoint, 0 = one forward pass")
    share: float = option(0.9, help="share of the probability that an explanation must keep")
    most: int = option(4, help="maximum number of explanations of a mosaic")
    reaches: list[float] | None = option(
        None, help="radii around the most important place for additional masks; null = 0.5 and 0.25; [] = none"
    )
    largest: float = option(0.5, help="largest area of an explanation")
    batch_size: int = option(10, help="mosaics at once")
    gallery: int = option(8, help="number of pictures to write")
    seed: int = option(0, help="random seed of the pairs")
    device: str = option("auto", help="auto, cpu, cuda, …")
    out: str = option("runs/multiple", help="folder for the pictures", path=True)


@dataclass
class PeersBench:
    """Settings of the benchmark."""

    out: str = option("out/peers", help="folder for peers.md and peers.json", path=True)
    peers: list[str] = option(list(PEER_NAMES), help=f"comparisons: {', '.join(PEER_NAMES)}")
    models: list[str] = option(["tf_efficientnet_lite0", "deit_tiny_patch16_224"], help="classifiers")
    weights: dict[str, str] = option(
        {}, help="weights by model, as weights.deit_tiny_patch16_224=FILE; others random", path=True
    )
    input_size: int | None = option(None, help="height and width of the images; null = as each model requires")
    precisions: list[str] = option(["fp32"], help="precisions of the classifier: fp32, bf16")
    images: Any = option(
        "scikit-image", help="images; the first `count` are used, repeated if there are fewer", path=True
    )
    count: int = option(4, help="images in the batch")
    repeats: int = option(3, help="timed runs after a warm-up")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class ScaleBench:
    """Settings of the benchmark, and assumptions of its estimate."""

    models: list[str] = option(MODELS, help="timm names; random weights")
    variants: list[str] | None = option(
        None,
        help="precisions of the classifier; null = all on a GPU, fp32 and bf16 on a CPU",
        choices=[*VARIANTS, None],
    )
    batch_size: int | None = option(None, help="images per step; null = 64 on a GPU, 2 on a CPU")
    repeats: int | None = option(None, help="timed runs after a warm-up; null = 10 on a GPU, 1 on a CPU")
    device: str = option("auto", help="auto, cpu, cuda, …")
    processes: list[int] = option([1, 2], help="numbers of processes to compare in training; [] = none")
    training: str = option("deit_tiny_patch16_224", help="classifier of these training runs")
    training_steps: int = option(13, help="steps of these training runs; the first three are not timed")
    images: int = option(IMAGENET, help="images per epoch of the estimated training")
    epochs: float = option(10.0, help="epochs of the estimated training")
    gpus: list[int] = option([1, 8, 64], help="numbers of GPUs of the estimated training")
    efficiency: list[float] = option(
        [1.0, 0.95, 0.9], help="assumed images/s per GPU relative to one GPU, for each of gpus"
    )
    price: float = option(2.5, help="assumed price in US dollars per GPU hour")
    rates: dict[str, float] = option({}, help="known images/s of one GPU, as in rates.resnet50=900")
    tflops: float = option(50.0, help="assumed TFLOP/s of one GPU, if it is not measured and not in rates")

    def __post_init__(self) -> None:
        check_ranges("", self, batch_size=POSITIVE, repeats=POSITIVE, training_steps=POSITIVE)
        if any(count < 1 for count in self.processes):
            raise InputError(f"processes={self.processes}; give numbers of 1 or more, or [] for none")


@dataclass
class TrainBench:
    """Settings of the benchmark."""

    classifier: ClassifierConfig = option(ClassifierConfig, help="the explained model")
    explainer: ExplainerConfig = option(ExplainerConfig, help="the mask network")
    objective: ObjectiveConfig = option(ObjectiveConfig, help="the terms of the objective")
    fill: Any = option(["black", "blur"], help="fill for removed pixels")
    batch_size: int = option(16, help="images per step")
    repeats: int = option(7, help="timed runs after a warm-up")
    device: str = option("auto", help="auto, cpu, cuda, …")


@dataclass
class ModelsBench:
    """Settings of the table of models and jobs."""

    groups: list[str] | None = option(
        None,
        help="groups of models; null = all",
        choices=("timm", "torchvision", "transformers", "own module"),
    )
    names: list[str] | None = option(None, help="names of models within the groups; null = all")
    out: str | None = option("models.md", help="Markdown file; null = print only", path=True)
