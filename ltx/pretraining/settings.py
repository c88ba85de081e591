"""The settings of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltx.attribution.registry import METHODS
from ltx.classifier.settings import ClassifierConfig
from ltx.config.options import check_ranges, option
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.area_sampling import AreaSampling
from ltx.objectives.settings import ObjectiveConfig
from ltx.runtime.errors import InputError
from ltx.runtime.lazy import torch

if TYPE_CHECKING:
    from ltx.attribution.teacher_maps import TeacherMaps
    from ltx.classifier.classifier import Classifier
    from ltx.explainers.mask_network import MaskNetwork


@dataclass
class DataConfig:
    """Which images train and validate, and how they are cropped."""

    images: Any = option(
        "scikit-image", help="training images: FOLDER, FILE, GLOB, CSV, a list of them, or scikit-image"
    )
    shards: Any = option(
        None, help="training images in webdataset shards instead: paths or URLs as {000000..001281}.tar, or a list"
    )
    manifest: str | None = option(None, help="counts of the shards; null = manifest.json beside them, else counted")
    shuffle: int = option(1000, help="images that each worker holds for shuffling, where they come from shards")
    val_images: Any = option(None, help="validation images (or shards); null = hold out val_share of the training's")
    val_share: float = option(0.2, help="share (of images, or of whole shards) held out where val_images is null")
    batch_size: int = option(16, help="images for each device and micro-batch")
    workers: int | None = option(None, help="loading processes of each device; null = one a core, 8 at most")
    crop_scale: list[float] = option([0.35, 1.0], help="area range of the random resized crop")
    flip: bool = option(True, help="mirror half of the training images")
    crops: int | None = option(None, help="crops of an image, which come again in turn; null = always another one")
    cache: str | None = option(
        None, help="folder for the classifier's passes over these crops (and a shared trunk's features); null = none"
    )
    mosaic: float = option(0.25, help="share of images that become mosaics of two or four photographs (if conditioned)")

    def __post_init__(self) -> None:
        check_ranges("data.", self, mosaic=(0, 1), shuffle=(1, math.inf))
        if len(self.crop_scale) != 2:
            raise InputError(f"data.crop_scale={self.crop_scale}; give two shares of the area, low and high")


@dataclass
class TrainerConfig:
    """How long, on what, and what is written on the way."""

    max_steps: int = option(60, help="optimiser steps")
    accumulate: int = option(1, help="micro-batches for each optimiser step")
    clip: float = option(1.0, help="largest norm of the gradient")
    precision: str = option("fp32", help="of the explainer; masks and losses stay fp32", choices=["fp32", "bf16"])
    accelerator: str = option("auto", help="cpu, gpu or auto", choices=["auto", "cpu", "gpu"])
    devices: Any = option("auto", help="number of devices of a node; auto = as torchrun started, or all")
    nodes: int = option(1, help="machines, where torchrun does not say it")
    strategy: str = option(
        "ddp", help="all of the explainer on each device, or (fsdp) a share of it", choices=["ddp", "fsdp"]
    )
    fold_norms: bool = option(True, help="fold the classifier's batch normalisation into its convolutions; faster")
    compile: bool = option(False, help="compile the classifier's passes over masked images (torch.compile)")
    checkpoint_activations: bool = option(False, help="keep less of the classifier's passes, and compute it again")
    validate_every: int = option(20, help="steps between validations")
    checkpoint_every: int = option(50, help="steps between resume points: the most that a killed run loses")
    log_every: int = option(10, help="steps between rows of metrics.csv")
    overlays: int = option(6, help="validation images whose masks are drawn after each validation")
    progress: bool = option(True, help="show a progress bar")

    def __post_init__(self) -> None:
        some = (1, math.inf)
        check_ranges("trainer.", self, nodes=some, validate_every=some, checkpoint_every=some, log_every=some)
        check_ranges("trainer.", self, overlays=(0, math.inf))
        if not 0 < self.clip < math.inf:
            raise InputError(f"trainer.clip={self.clip}; give a number above 0")


@dataclass
class OptimiserConfig:
    """AdamW with a linear warm-up and a cosine decay."""

    lr: float = option(1e-3, help="peak learning rate")
    trunk_lr: float = option(1e-5, help="peak learning rate of a trainable trunk")
    weight_decay: float = option(0.01, help="decoupled weight decay")
    warmup: float = option(0.05, help="share of the steps that warm up")
    floor: float = option(0.02, help="learning rate at the end, as a share of the peak")

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise InputError(f"optimiser.lr={self.lr}; give a number above 0")
        check_ranges(
            "optimiser.", self, trunk_lr=(0, math.inf), weight_decay=(0, math.inf), warmup=(0, 1), floor=(0, 1)
        )

    def factor(self, progress: float) -> float:
        """The learning rate at a progress in [0, 1], as a share of its peak."""
        if progress < self.warmup:
            return progress / self.warmup
        phase = min(1.0, (progress - self.warmup) / max(1e-9, 1 - self.warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * phase))

    def build(self, explainer: MaskNetwork, max_steps: int) -> Any:
        """What a LightningModule's `configure_optimizers` answers for the trained parameters of `explainer`."""
        groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for name, parameter in explainer.named_parameters():
            if parameter.requires_grad:
                groups[name.startswith("trunk.")].append(parameter)
        rates = {True: self.trunk_lr, False: self.lr}
        parameters = [{"params": group, "lr": rates[trunk]} for trunk, group in groups.items() if group]
        adamw = torch.optim.AdamW(parameters, weight_decay=self.weight_decay)
        # The first step must move: count it as done.
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda s: self.factor((s + 1) / max_steps))
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass
class TeacherConfig:
    """Whose maps order the scores where objective.teacher.weight is above 0."""

    method: str = option("iia2", help="attribution method", choices=list(METHODS))
    options: dict[str, Any] = option({}, help="the method's own options, as options.steps=5 options.variant=released")
    cache: str = option("runs/teacher_maps", help="folder of the maps, which runs may share")
    resolution: int = option(56, help="height and width of the stored maps")
    max_batch: int = option(64, help="rows (path points x images) of one forward pass; bounds memory")

    def build(self, classifier: Classifier) -> TeacherMaps:
        """The teacher of `classifier`'s predictions.

        Raises:
            InputError: see `TeacherMaps`.
        """
        from ltx.attribution.teacher_maps import TeacherMaps

        return TeacherMaps(self.cache, classifier, self.method, self.resolution, **self.options)


@dataclass
class WandbConfig:
    """Where the run is logged besides its own folder."""

    mode: str = option(
        "disabled", help="disabled, offline (sync later) or online", choices=["disabled", "offline", "online"]
    )
    project: str = option("ltx", help="project")
    entity: str | None = option(None, help="user or team; null = the account's default")
    name: str | None = option(None, help="name of the run; null = drawn by wandb")
    artifact: str = option("explainer", help="name of the artifact that the checkpoint folder becomes a version of")
    aliases: list[str] = option(["latest"], help="names of that version, as [latest,best]")


@dataclass
class TrainConfig:
    """Pretrain an explainer."""

    classifier: ClassifierConfig = option(ClassifierConfig, help="the explained model")
    explainer: ExplainerConfig = option(ExplainerConfig, help="the mask network")
    objective: ObjectiveConfig = option(ObjectiveConfig, help="what a good mask is")
    teacher: TeacherConfig = option(TeacherConfig, help="an attribution method that teaches the order of the scores")
    areas: AreaSampling = option(AreaSampling, help="areas asked for in training, explainer.name=inr")
    fill: Any = option(
        ["black", "blur"], help="what replaces removed pixels: black, mean, blur, noise, random, or a list to draw from"
    )
    data: DataConfig = option(DataConfig, help="images")
    optimiser: OptimiserConfig = option(OptimiserConfig, help="AdamW, warm-up and cosine")
    trainer: TrainerConfig = option(TrainerConfig, help="the run")
    wandb: WandbConfig = option(WandbConfig, help="sharing through wandb")
    init: str | None = option(None, help="checkpoint folder whose weights the explainer starts from; null = anew")
    seed: int = option(0, help="of every random draw")
    resume: bool = option(True, help="go on from OUT/last.ckpt where there is one; false = start anew")
    out: str = option("runs/train", help="folder of everything that is written")

    def __post_init__(self) -> None:
        check_ranges("", self, seed=(0, 2**63 - 1))
