"""A pretraining run, from its settings to the checkpoint folder."""

from __future__ import annotations

import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import torch

from ltx.attribution.teacher_maps import TeacherMaps
from ltx.checkpoints.classifier_settings import rebuild_settings
from ltx.checkpoints.folder import CONFIG, TENSORS
from ltx.classifier.classifier import Classifier
from ltx.config.schedules import ever_positive
from ltx.data.folder import FolderData
from ltx.data.shards.streaming import ShardData
from ltx.data.training_images import StreamSettings, TrainingImages
from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.fill import Fill
from ltx.objectives.objective import Objective
from ltx.objectives.settings import TERMS
from ltx.pretraining.callbacks.throughput import DataWait, Throughput
from ltx.pretraining.checkpoint_writer import CheckpointWriter
from ltx.pretraining.forecast import forecast
from ltx.pretraining.initial_weights import load_initial_weights, load_pretrained_trunk
from ltx.pretraining.inr import INRPretraining
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.resume import find_resume_point
from ltx.pretraining.settings import TrainConfig
from ltx.pretraining.trainer import RunParts, build_trainer
from ltx.pretraining.unmasked_passes import UnmaskedPasses
from ltx.pretraining.wandb_logging import finish_run, wandb_logger
from ltx.runtime.errors import InputError
from ltx.runtime.private_api import kill_subprocesses


def run_pretraining(config: TrainConfig, classifier: Classifier | None = None) -> Path:
    """Train an explainer and write its checkpoint folder, or resume an interrupted run of the same settings.

    Args:
        config: the settings.
        classifier: the model to explain, in place of the one that `config.classifier` describes.

    Returns:
        The folder: `explainer.safetensors`, `config.yaml`, `README.md`, `metrics.csv`, `overlays/`, `last.ckpt`.

    Raises:
        InputError: settings that cannot work, a folder that contains a run of other settings, a loss that is not
            finite.
    """
    objective = _objective(config)
    if classifier is not None:
        config = replace(config, classifier=rebuild_settings(classifier))
    else:
        classifier = config.classifier.build()
    if config.classifier.class_names is not None:
        # Store the names themselves: their file may not be where the checkpoint is used.
        with_names = replace(config.classifier, class_names=list(classifier.class_names))
        config = replace(config, classifier=with_names)
    torch.manual_seed(config.seed)
    explainer = config.explainer.build(classifier)
    resume_from = find_resume_point(config, classifier)
    if config.init is not None and resume_from is None:  # a resumed run does not need it, and it may be gone
        load_initial_weights(explainer, config.init, config.explainer.evidence)
    elif resume_from is None:
        load_pretrained_trunk(explainer, config.explainer.trunk)
    if config.trainer.checkpoint_activations:
        classifier.checkpoint_activations()
    teacher = config.teacher.build(classifier) if objective.uses("teacher") else None
    if config.trainer.fold_norms:
        classifier.fold_norms()
    if config.trainer.compile:
        classifier.compile()
    data = _data(config, classifier, teacher)
    data.setup("fit")
    module = _module(config, explainer, objective, _unmasked_passes(config, explainer, data))
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    logger = wandb_logger(config.wandb, asdict(config), out)
    throughput = Throughput(DataWait(), config.data.batch_size * config.trainer.accumulate)
    writer = CheckpointWriter(config, explainer, data.describe(), logger, from_scratch=resume_from is None)
    trainer = build_trainer(config, RunParts(explainer, data, teacher, logger, throughput, writer))
    _print_start(config, explainer, data, trainer, resume_from)
    finished = False
    try:
        _fit(trainer, module, data, resume_from)
        if trainer.is_global_zero:
            _print_end(out, throughput.summary, data.broken_count)
        finished = True
    finally:
        finish_run(logger, failed=not finished)
    return out


def _fit(
    trainer: lightning.Trainer, module: lightning.LightningModule, data: TrainingImages, resume_from: str | None
) -> None:
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=resume_from is not None)
    except Exception:
        # The processes that Lightning started would wait for this one until their communication times out.
        kill_subprocesses(trainer.strategy.launcher, signal.SIGKILL)
        raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning replaces it by an uninformative exit status
            raise KeyboardInterrupt from None
        raise


def _objective(config: TrainConfig) -> Objective:
    objective = Objective(config.objective)
    idle = objective.idle_at()
    if idle is not None:
        when = f"at {idle:g} of the training" if any(objective.uses(name) for name in TERMS) else "at all times"
        raise InputError(
            f"every objective.*.weight is 0 {when}, so that nothing is learned; set objective.keep.weight=1, or so"
        )
    return objective


def _unmasked_passes(config: TrainConfig, explainer: MaskNetwork, data: TrainingImages) -> UnmaskedPasses | None:
    if config.data.cache is None:
        return None
    if config.data.crops is None:
        raise InputError("data.cache needs crops that are repeated; set data.crops=4, or so, with it")
    if config.trainer.strategy == "fsdp":
        raise InputError("data.cache does not work with trainer.strategy=fsdp; set data.cache=null")
    rows = data.train_count * config.data.crops
    crop = data.cropping
    # The text is part of the keys of existing caches: names in it must not change.
    crops = f"Cropping(size={crop.size}, seed={crop.seed}, scale={crop.scale}, flip={crop.flip}, "
    crops += f"each={crop.crops_per_image})"
    passes = UnmaskedPasses(config.data.cache, explainer, rows, f"{crops}\n{data.identity}")
    print(
        f"cache of forward passes over {rows} crops in {passes.folder}: up to {passes.bytes / 1e9:.2f} GB", flush=True
    )
    return passes


def _module(
    config: TrainConfig, explainer: MaskNetwork, objective: Objective, unmasked_passes: UnmaskedPasses | None
) -> lightning.LightningModule:
    mosaics = ever_positive(config.data.mosaic) and explainer.conditioned and config.data.batch_size > 1
    if objective.uses("elsewhere") and not mosaics:
        raise InputError(
            "objective.elsewhere.weight above 0 needs mosaics: data.mosaic above 0, data.batch_size above 1 and "
            "explainer.conditioned=true"
        )
    settings: dict[str, Any] = {
        "explainer": explainer,
        "objective": objective,
        "fill": Fill(config.fill),
        "optimiser": config.optimiser,
        "max_steps": config.trainer.max_steps,
        "seed": config.seed,
        "mosaic": config.data.mosaic,
        "unmasked_passes": unmasked_passes,
    }
    if not explainer.takes_areas:
        return LTXPretraining(**settings)
    if config.explainer.trunk == "none":
        raise InputError(
            "explainer.trunk=none sees no image, and one mask for all images explains nothing; "
            "use trunk=shared here, or fit a network to each image: ltx attribute method=inr"
        )
    return INRPretraining(areas=config.areas, **settings)


def _data(config: TrainConfig, classifier: Classifier, teacher: TeacherMaps | None) -> TrainingImages:
    data = config.data
    stream = StreamSettings(
        size=classifier.input_size,
        channels=classifier.channels,
        batch_size=data.batch_size,
        max_steps=config.trainer.max_steps,
        accumulate=config.trainer.accumulate,
        val_images=data.val_images,
        val_share=data.val_share,
        workers=data.workers,
        seed=config.seed,
        crop_scale=(data.crop_scale[0], data.crop_scale[1]),
        flip=data.flip,
        crops=data.crops,
    )
    if data.shards is None:
        maps = None if teacher is None else teacher.stored
        return FolderData(data.images, stream, maps, out=Path(config.out))
    if teacher is not None:
        raise InputError("objective.teacher.weight above 0 needs data.images: a teacher's maps are stored by file")
    return ShardData(data.shards, stream, data.manifest, data.shuffle)


def _print_start(
    config: TrainConfig,
    explainer: MaskNetwork,
    data: TrainingImages,
    trainer: lightning.Trainer,
    resume_from: str | None,
) -> None:
    if not trainer.is_global_zero:
        return
    trained = sum(p.numel() for p in explainer.parameters() if p.requires_grad)
    images = config.data.batch_size * config.trainer.accumulate * trainer.world_size
    print(
        f"classifier {explainer.classifier.name}, explainer {type(explainer).__name__} on {config.explainer.trunk} "
        f"trunk: {trained:,} trained parameters\n"
        f"{data.describe()}; {config.trainer.max_steps} steps of "
        f"{images} images on {trainer.world_size} x {trainer.strategy.root_device.type}"
        + (f"\nresuming from {resume_from}" if resume_from else ""),
        flush=True,
    )


def _print_end(out: Path, throughput: str, broken: int) -> None:
    names = [TENSORS, CONFIG, "README.md", "metrics.csv", "last.ckpt"]
    pictures = sorted((out / "overlays").glob("*.png"))
    for line in filter(None, (throughput, forecast(out / "metrics.csv"))):
        print(line)
    if broken:
        print(f"{broken} images could not be read; the warnings above name them")
    print("wrote " + ", ".join(str(out / name) for name in names if (out / name).exists()))
    if pictures:
        print(f"wrote {len(pictures)} pictures, the last is {pictures[-1]}")
