"""Settings of `ltx train`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ltx.attribution.registry import METHODS
from ltx.classifier.settings import ClassifierConfig
from ltx.config.options import check_ranges, option
from ltx.config.schedules import check_schedules
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.area_sampling import AreaSampling
from ltx.objectives.settings import ObjectiveConfig
from ltx.pretraining.recipe import INR, LR, MOSAIC, recipe_objective
from ltx.runtime.errors import InputError
from ltx.runtime.lazy import torch

if TYPE_CHECKING:
    from ltx.attribution.teacher_maps import TeacherMaps
    from ltx.classifier.classifier import Classifier
    from ltx.explainers.mask_network import MaskNetwork


@dataclass
class DataConfig:
    """Training and validation images, and how they are cropped."""

    images: Any = option(
        "scikit-image", help="training images: FOLDER, FILE, GLOB, CSV, a list of them, or scikit-image", path=True
    )
    shards: Any = option(
        None,
        help="training images in webdataset shards instead: paths or URLs such as {000000..001281}.tar, or a list",
        path=True,
    )
    manifest: str | None = option(
        None, help="file with the counts of the shards; null = manifest.json next to them, else count them", path=True
    )
    shuffle: int = option(1000, help="size of each worker's shuffle buffer in images, for shards")
    val_images: Any = option(
        None, help="validation images (or shards); null = hold out val_share of the training images", path=True
    )
    val_share: float = option(
        0.2, help="share of the images (or of whole shards) held out for validation if val_images is null"
    )
    batch_size: int = option(16, help="images per device and micro-batch")
    workers: int | None = option(None, help="loading processes per device; null = one per core, up to 8")
    crop_scale: list[float] = option([0.35, 1.0], help="area range of the random resized crop, as shares of the image")
    flip: bool = option(True, help="mirror training images with probability 1/2")
    crops: int | None = option(
        None, help="each image cycles through this many fixed crops; null = a new crop every time"
    )
    cache: str | None = option(
        None, help="folder that caches the classifier's passes over these crops; null = no cache", path=True
    )
    mosaic: Any = option(
        MOSAIC,
        help="share of training images turned into mosaics of two or four photographs (if conditioned)",
        scheduled=(0, 1),
    )

    def __post_init__(self) -> None:
        check_ranges("data.", self, shuffle=(1, math.inf))
        check_schedules("data.", self)
        if len(self.crop_scale) != 2:
            raise InputError(f"data.crop_scale={self.crop_scale}; give two shares of the area, low and high")


@dataclass
class TrainerConfig:
    """Length of the training, hardware, and what is written when."""

    max_steps: int = option(60, help="optimiser steps")
    accumulate: int = option(1, help="micro-batches per optimiser step")
    clip: float = option(1.0, help="maximum gradient norm")
    precision: str = option(
        "fp32", help="precision of the explainer; masks and losses stay fp32", choices=["fp32", "bf16"]
    )
    accelerator: str = option("auto", help="cpu, gpu or auto", choices=["auto", "cpu", "gpu"])
    devices: Any = option("auto", help="devices per node; auto = the processes that torchrun started, or all")
    nodes: int = option(1, help="number of machines; torchrun sets it")
    strategy: str = option(
        "ddp", help="ddp = the whole explainer on each device, fsdp = a shard of it", choices=["ddp", "fsdp"]
    )
    fold_norms: bool = option(True, help="fold the classifier's batch normalisation into its convolutions (faster)")
    compile: bool = option(False, help="compile the classifier's passes over masked images (torch.compile)")
    checkpoint_activations: bool = option(
        False, help="recompute the classifier's activations in the backward pass to save memory"
    )
    validate_every: int | None = option(
        None, help="steps between validations; null = a tenth of the training, but no fewer than 20"
    )
    checkpoint_every: int = option(50, help="steps between resume points, the maximum that a killed run loses")
    log_every: int = option(10, help="steps between rows of metrics.csv")
    overlays: int = option(6, help="number of validation images whose masks are drawn after each validation")
    progress: bool = option(True, help="show a progress bar")

    @property
    def validation_interval(self) -> int:
        """Steps between validations."""
        return max(20, self.max_steps // 10) if self.validate_every is None else self.validate_every

    def __post_init__(self) -> None:
        some = (1, math.inf)
        check_ranges("trainer.", self, nodes=some, validate_every=some, checkpoint_every=some, log_every=some)
        check_ranges("trainer.", self, overlays=(0, math.inf))
        if not 0 < self.clip < math.inf:
            raise InputError(f"trainer.clip={self.clip}; give a number above 0")


@dataclass
class OptimiserConfig:
    """AdamW with linear warm-up and cosine decay."""

    lr: float = option(LR, help="peak learning rate")
    trunk_lr: float = option(1e-5, help="peak learning rate of a trainable trunk")
    weight_decay: float = option(0.01, help="decoupled weight decay")
    warmup: float = option(0.05, help="warm-up, as a share of the steps")
    floor: float = option(0.02, help="final learning rate, as a share of the peak")

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise InputError(f"optimiser.lr={self.lr}; give a number above 0")
        check_ranges(
            "optimiser.", self, trunk_lr=(0, math.inf), weight_decay=(0, math.inf), warmup=(0, 1), floor=(0, 1)
        )

    def factor(self, progress: float) -> float:
        """The learning rate at a training progress in [0, 1], as a share of its peak."""
        if progress < self.warmup:
            return progress / self.warmup
        phase = min(1.0, (progress - self.warmup) / max(1e-9, 1 - self.warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * phase))

    def build(self, explainer: MaskNetwork, max_steps: int) -> Any:
        """Result of a LightningModule's `configure_optimizers` for the trainable parameters of `explainer`."""
        groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for name, parameter in explainer.named_parameters():
            if parameter.requires_grad:
                groups[name.startswith("trunk.")].append(parameter)
        rates = {True: self.trunk_lr, False: self.lr}
        parameters = [{"params": group, "lr": rates[trunk]} for trunk, group in groups.items() if group]
        adamw = torch.optim.AdamW(parameters, weight_decay=self.weight_decay)
        # `s + 1`: with a warm-up, the learning rate of step 0 would be 0.
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda s: self.factor((s + 1) / max_steps))
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass
class TeacherConfig:
    """The attribution method whose maps rank the mask logits if objective.teacher.weight is above 0."""

    method: str = option("iia2", help="attribution method", choices=list(METHODS))
    options: dict[str, Any] = option({}, help="options of the method, such as options.steps=5 options.variant=released")
    cache: str = option("runs/teacher_maps", help="folder of the maps; runs may share it", path=True)
    resolution: int = option(56, help="height and width of the stored maps")
    max_batch: int = option(64, help="rows (path points x images) per forward pass; bounds memory")

    def build(self, classifier: Classifier) -> TeacherMaps:
        """The teacher, which explains the predictions of `classifier`.

        Raises:
            InputError: see `TeacherMaps`.
        """
        from ltx.attribution.teacher_maps import TeacherMaps

        return TeacherMaps(self.cache, classifier, self.method, self.resolution, **self.options)


@dataclass
class WandbConfig:
    """Logging to wandb, in addition to the run's folder."""

    mode: str = option(
        "disabled", help="disabled, offline (sync later) or online", choices=["disabled", "offline", "online"]
    )
    project: str = option("ltx", help="project")
    entity: str | None = option(None, help="user or team; null = the account's default")
    name: str | None = option(None, help="name of the run; null = generated by wandb")
    artifact: str = option("explainer", help="name of the artifact; each checkpoint folder is a version of it")
    aliases: list[str] = option(["latest"], help="aliases of that version, such as [latest,best]")


@dataclass
class TrainConfig:
    """Pretrain an explainer."""

    IMPLIED: ClassVar[dict[tuple[str, Any], dict[str, Any]]] = {("explainer.name", "inr"): INR}

    classifier: ClassifierConfig = option(ClassifierConfig, help="the explained model")
    explainer: ExplainerConfig = option(ExplainerConfig, help="the mask network")
    objective: ObjectiveConfig = option(recipe_objective, help="terms that define a good mask")
    teacher: TeacherConfig = option(
        TeacherConfig, help="attribution method that teaches the ranking of the mask logits"
    )
    areas: AreaSampling = option(AreaSampling, help="areas of the masks in training (explainer.name=inr)")
    fill: Any = option(
        ["black", "blur"], help="fill for removed pixels: black, mean, blur, noise, random, or a list to draw from"
    )
    data: DataConfig = option(DataConfig, help="images")
    optimiser: OptimiserConfig = option(OptimiserConfig, help="AdamW with warm-up and cosine decay")
    trainer: TrainerConfig = option(TrainerConfig, help="length, hardware and outputs")
    wandb: WandbConfig = option(WandbConfig, help="logging to wandb")
    init: str | None = option(
        None, help="checkpoint folder to initialise the explainer from; null = random initialisation"
    )
    seed: int = option(0, help="random seed")
    resume: bool = option(True, help="resume from OUT/last.ckpt if it exists; false = start from scratch")
    out: str = option("runs/train", help="output folder", path=True)

    def __post_init__(self) -> None:
        check_ranges("", self, seed=(0, 2**63 - 1))
