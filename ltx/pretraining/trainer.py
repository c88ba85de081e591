"""The Lightning trainer of a run, with its callbacks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, RichProgressBar, TQDMProgressBar

from ltx.attribution.teacher_maps import TeacherMaps
from ltx.data.folder import FolderData
from ltx.data.training_images import TrainingImages
from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.fill import Fill
from ltx.pretraining.callbacks.collapse_warning import CollapseWarning
from ltx.pretraining.callbacks.due_validations import DueValidations
from ltx.pretraining.callbacks.metrics_file import MetricsFile
from ltx.pretraining.callbacks.overlays import Overlays
from ltx.pretraining.callbacks.preemption import Preemption
from ltx.pretraining.callbacks.resume_point import ResumePoint
from ltx.pretraining.callbacks.teacher_maps import PrecomputeTeacherMaps
from ltx.pretraining.callbacks.throughput import Throughput
from ltx.pretraining.checkpoint_writer import CheckpointWriter
from ltx.pretraining.fsdp import GatheredValidation, lightning_strategy
from ltx.pretraining.settings import TrainConfig
from ltx.pretraining.wandb_logging import Tracker, log_overlays
from ltx.runtime.errors import InputError
from ltx.runtime.ranks import layout


@dataclass(frozen=True)
class RunParts:
    """What the callbacks of a run work on.

    Attributes:
        explainer: the network in training.
        data: training and validation images.
        teacher: computes the maps of the teacher term; None = the objective has no teacher.
        logger: the wandb run; None = none.
        throughput: measures the speed.
        writer: writes the checkpoint folder.
    """

    explainer: MaskNetwork
    data: TrainingImages
    teacher: TeacherMaps | None
    logger: Tracker | None
    throughput: Throughput
    writer: CheckpointWriter


def build_trainer(config: TrainConfig, parts: RunParts) -> lightning.Trainer:
    """The trainer of a run.

    Raises:
        InputError: accelerator, devices or nodes that this machine does not have.
    """
    run = config.trainer
    micro_batches = run.max_steps * run.accumulate
    devices, nodes = layout(run.devices, run.nodes)
    try:
        return lightning.Trainer(
            accelerator=run.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=lightning_strategy(run.strategy),
            max_epochs=1,  # the loader covers the whole training, so a resumed run is in the same epoch
            max_steps=run.max_steps,
            accumulate_grad_batches=run.accumulate,
            gradient_clip_val=run.clip,
            precision="bf16-mixed" if run.precision == "bf16" else "32-true",
            val_check_interval=min(run.validation_interval * run.accumulate, micro_batches),
            check_val_every_n_epoch=1,
            num_sanity_val_steps=0,
            log_every_n_steps=run.log_every,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=run.progress,
            enable_model_summary=False,
            callbacks=_callbacks(config, parts),
            profiler=parts.throughput.wait,
            logger=parts.logger if parts.logger is not None else False,
            default_root_dir=config.out,
        )
    except InputError:
        raise
    # Each for other values of these settings, or of SLURM's.
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"trainer.accelerator={run.accelerator}, trainer.devices={run.devices}, trainer.nodes={run.nodes}: "
            f"{' '.join(str(error).split()).rstrip('.')}; give a number of devices that this machine has, or auto"
        ) from error


def _callbacks(config: TrainConfig, parts: RunParts) -> list[Callback]:
    """The callbacks in the order in which they run: what is written for a step comes before its resume point."""
    run, out = config.trainer, Path(config.out)
    resume_point = ResumePoint(out / "last.ckpt", run.checkpoint_every, parts.throughput.images_per_step, parts.writer)
    images = parts.data.validation_images(run.overlays)
    log = None if parts.logger is None else partial(log_overlays, parts.logger)
    callbacks: list[Callback] = [
        Overlays(out / "overlays", parts.explainer, images, log, Fill(config.fill)),
        MetricsFile(out / "metrics.csv", run.log_every),
        CollapseWarning(),
        parts.throughput,
        resume_point,
        Preemption(resume_point.write),
    ]
    if run.strategy == "fsdp":
        callbacks.append(GatheredValidation())
    if parts.teacher is not None and isinstance(parts.data, FolderData):
        callbacks.append(PrecomputeTeacherMaps(parts.teacher, parts.data, config.teacher.max_batch, run.progress))
    if run.progress:
        callbacks.append(RichProgressBar() if sys.stdout.isatty() else TQDMProgressBar(refresh_rate=run.log_every))
    callbacks.append(DueValidations(run.validation_interval))
    if parts.logger is not None:
        callbacks.append(LearningRateMonitor("step"))
    return callbacks
