"""A pretraining run from its configuration to the checkpoint folder: what `train.py` calls."""

from __future__ import annotations

import platform
import signal
import sys
import zipfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import timm
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, RichProgressBar, TQDMProgressBar
from torch import Tensor

from ltx.attribution.teacher_maps import TeacherMaps
from ltx.checkpoints.folder import CARD, CONFIG, TENSORS, load, made_for, read_config, save_checkpoint
from ltx.classifier.classifier import Classifier
from ltx.data.folder import FolderData
from ltx.data.shards.streaming import ShardData
from ltx.data.training_images import StreamSettings, TrainingImages
from ltx.explainers.mask_network import MaskNetwork
from ltx.masking.fill import Fill
from ltx.objectives.objective import Objective
from ltx.objectives.settings import TERMS
from ltx.pretraining.callbacks import CollapseWarning, DueValidations, MetricsFile, Overlays, ResumePoint
from ltx.pretraining.fsdp import GatheredValidation, strategy_for
from ltx.pretraining.inr import INRPretraining
from ltx.pretraining.ltx import LTXPretraining
from ltx.pretraining.operations import DataWait, Pace, Preemption
from ltx.pretraining.settings import TrainConfig
from ltx.pretraining.teacher_callback import TeacherFirst
from ltx.pretraining.unmasked_passes import UnmaskedPasses
from ltx.pretraining.wandb_logging import Tracker, finish, share_checkpoint, share_overlays, wandb_logger
from ltx.runtime.errors import InputError
from ltx.runtime.private_api import kill_subprocesses
from ltx.runtime.ranks import layout

TITLE = "# Explainer for "
"""How a card begins, which tells it from a README.md of the user."""


def pretrain(config: TrainConfig) -> Path:
    """Train an explainer and write its checkpoint folder; goes on where an earlier run of the same command stopped.

    Returns:
        The folder: `explainer.safetensors`, `config.yaml`, `README.md`, `metrics.csv`, `overlays/`, `last.ckpt`.

    Raises:
        InputError: settings that cannot work, a folder with a run of other settings, a loss that is not finite.
    """
    out = Path(config.out)
    objective = Objective(config.objective)
    idle = objective.idle_at()
    if idle is not None:
        when = f"at {idle:g} of the training" if any(objective.uses(name) for name in TERMS) else "at all times"
        raise InputError(
            f"every objective.*.weight is 0 {when}, so that nothing is learned; set objective.keep.weight=1, or so"
        )
    classifier = config.classifier.build()
    if config.classifier.class_names is not None:
        # The checkpoint goes where the file of the names is not.
        own_names = replace(config.classifier, class_names=list(classifier.class_names))
        config = replace(config, classifier=own_names)
    torch.manual_seed(config.seed)
    explainer = config.explainer.build(classifier)
    resume_from = _resume_point(config, out, classifier)
    if config.init is not None and resume_from is None:  # else it is not needed, and may be gone
        start_from(explainer, config.init, config.explainer.evidence)
    if config.trainer.checkpoint_activations:
        classifier.checkpoint_activations()
    teacher = config.teacher.build(classifier) if objective.uses("teacher") else None
    if config.trainer.fold_norms:
        classifier.fold_norms()
    if config.trainer.compile:
        classifier.compile()
    data = _data(config, classifier.input_size, teacher)
    data.setup("fit")
    module = _module(config, explainer, objective, _unmasked_passes(config, explainer, data))
    out.mkdir(parents=True, exist_ok=True)
    settings = asdict(config)
    logger = wandb_logger(config.wandb, settings, out)
    pace = Pace(DataWait(), config.data.batch_size * config.trainer.accumulate)
    trainer = _trainer(config, out, explainer, data, teacher, logger, settings, pace, resume_from is None)
    _announce(config, explainer, data, trainer, resume_from)
    done = False
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=resume_from is not None)
        if trainer.is_global_zero:
            _report(out, pace.summary, data.broken_count)
        done = True
    except Exception:
        # The processes that Lightning started would wait for this one until their communication times out.
        kill_subprocesses(trainer.strategy.launcher, signal.SIGKILL)
        raise
    except SystemExit as left:
        if isinstance(left.__context__, KeyboardInterrupt):  # Lightning makes of it a status that says nothing
            raise KeyboardInterrupt from None
        raise
    finally:
        finish(logger, failed=not done)
    return out


def clear(out: Path) -> None:
    """Remove the resume point and the card of a former run, and nothing else."""
    (out / "last.ckpt").unlink(missing_ok=True)
    if (out / CARD).is_file() and (out / CARD).read_bytes().startswith(TITLE.encode()):
        (out / CARD).unlink()


def _unmasked_passes(config: TrainConfig, explainer: MaskNetwork, data: TrainingImages) -> UnmaskedPasses | None:
    if config.data.cache is None:
        return None
    if config.data.crops is None:
        raise InputError("data.cache keeps nothing where no crop comes again; set data.crops=4, or so, with it")
    if config.trainer.strategy == "fsdp":
        raise InputError("data.cache and trainer.strategy=fsdp do not go together; set data.cache=null")
    rows = data.train_count * config.data.crops
    passes = UnmaskedPasses(config.data.cache, explainer, rows, f"{data.cropping}\n{data.identity}")
    print(
        f"unmasked forward passes over {rows} crops in {passes.folder}: up to {passes.bytes / 1e9:.2f} GB", flush=True
    )
    return passes


def _module(
    config: TrainConfig, explainer: MaskNetwork, objective: Objective, unmasked_passes: UnmaskedPasses | None
) -> lightning.LightningModule:
    parts: dict[str, Any] = {
        "explainer": explainer,
        "objective": objective,
        "fill": Fill(config.fill),
        "optimiser": config.optimiser,
        "max_steps": config.trainer.max_steps,
        "seed": config.seed,
        "mosaic": config.data.mosaic,
        "unmasked_passes": unmasked_passes,
    }
    if objective.uses("elsewhere") and not (
        config.data.mosaic and explainer.conditioned and config.data.batch_size > 1
    ):
        raise InputError(
            "objective.elsewhere.weight above 0 needs mosaics: data.mosaic above 0, data.batch_size above 1 and "
            "explainer.conditioned=true"
        )
    if not explainer.takes_areas:
        return LTXPretraining(**parts)
    if config.explainer.trunk == "none":
        raise InputError(
            "explainer.trunk=none sees no image, and one mask for all of them is of no use; "
            "use trunk=shared here, or fit it to each image: python -m ltx.attribute method=inr"
        )
    return INRPretraining(areas=config.areas, **parts)


def start_from(explainer: MaskNetwork, folder: str, evidence: float | None = None) -> None:
    """Give an explainer the weights of a checkpoint for the same classifier.

    Args:
        evidence: the weight of the class's evidence in its logits; None = the checkpoint's.

    Raises:
        InputError: see `ltx.load`; or a checkpoint of another mask network.
    """
    former = load(folder, explainer.classifier)
    weights, stages = former.state_dict(), former.stages
    wanted = {name: value.shape for name, value in explainer.state_dict().items()}
    if stages != explainer.stages or wanted != {name: value.shape for name, value in weights.items()}:
        raise InputError(f"init={folder} holds another mask network; set explainer.* as in its {CONFIG}")
    explainer.load_state_dict(weights)
    if evidence is not None:
        torch.nn.init.constant_(explainer.skip.weight, evidence)  # type: ignore[arg-type, union-attr]


def _data(config: TrainConfig, size: tuple[int, int], teacher: TeacherMaps | None) -> TrainingImages:
    data = config.data
    stream = StreamSettings(
        size=size,
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


def _trainer(
    config: TrainConfig,
    out: Path,
    explainer: MaskNetwork,
    data: TrainingImages,
    teacher: TeacherMaps | None,
    logger: Tracker | None,
    settings: dict[str, Any],
    pace: Pace,
    anew: bool,
) -> lightning.Trainer:
    run = config.trainer

    # After the others, so that what they wrote for a step is on disk before its resume point.
    def save(trainer: lightning.Trainer, state: dict[str, Tensor]) -> None:
        nonlocal anew
        if anew:  # now that other settings take their place; a run that dies sooner leaves the former one whole
            clear(out)
            anew = False
        tensors = {name.removeprefix("explainer."): value for name, value in state.items()}
        if trainer.global_step < run.max_steps:
            save_checkpoint(out, explainer, settings, tensors=tensors)
            return
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        save_checkpoint(out, explainer, settings, card(config, explainer, scores, run.max_steps), tensors=tensors)
        share_checkpoint(logger, config.wandb, out, scores, data.describe())

    resume_point = ResumePoint(out / "last.ckpt", run.checkpoint_every, pace.batch_size, save)
    shown = data.validation_images(run.overlays)
    show = None if logger is None else partial(share_overlays, logger)
    callbacks: list[Callback] = [
        Overlays(out / "overlays", explainer, shown, show, Fill(config.fill)),
        MetricsFile(out / "metrics.csv", run.log_every),
        CollapseWarning(),
        pace,
        resume_point,
        Preemption(resume_point.write),
    ]
    if run.strategy == "fsdp":
        callbacks.append(GatheredValidation())
    if teacher is not None and isinstance(data, FolderData):
        callbacks.append(TeacherFirst(teacher, data, config.teacher.max_batch, run.progress))
    if run.progress:
        callbacks.append(RichProgressBar() if sys.stdout.isatty() else TQDMProgressBar(refresh_rate=run.log_every))
    callbacks.append(DueValidations(run.validate_every))
    if logger is not None:
        callbacks.append(LearningRateMonitor("step"))
    micro_batches = run.max_steps * run.accumulate
    devices, nodes = layout(run.devices, run.nodes)
    try:
        return lightning.Trainer(
            accelerator=run.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy_for(run.strategy),
            max_epochs=1,  # the loader holds the whole training, so that a resumed run is in the same epoch
            max_steps=run.max_steps,
            accumulate_grad_batches=run.accumulate,
            gradient_clip_val=run.clip,
            precision="bf16-mixed" if run.precision == "bf16" else "32-true",
            val_check_interval=min(run.validate_every * run.accumulate, micro_batches),
            check_val_every_n_epoch=1,
            num_sanity_val_steps=0,
            log_every_n_steps=run.log_every,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=run.progress,
            enable_model_summary=False,
            callbacks=callbacks,
            profiler=pace.wait,
            logger=logger if logger is not None else False,
            default_root_dir=out,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:  # each for other values of these settings
        raise InputError(
            f"trainer.accelerator={run.accelerator}, trainer.devices={run.devices}, trainer.nodes={run.nodes}: "
            f"{' '.join(str(error).split()).rstrip('.')}; give a number of devices that this machine has, or auto"
        ) from error


def _resume_point(config: TrainConfig, out: Path, classifier: Classifier) -> str | None:
    """The checkpoint to go on from, after checking that it belongs to the same settings and the same classifier.

    It depends on nothing that is written before the first step: processes that start later answer the same.
    """
    point = out / "last.ckpt"
    if not config.resume or not point.is_file():
        return None
    mend = "choose another out=…, or resume=false to start anew there"
    try:
        former = _flat(read_config(out))
    except InputError as error:
        raise InputError(f"out={out} holds {point.name}, but no {CONFIG} that can be read; {mend}") from error
    if not zipfile.is_zipfile(point):  # torch's format, whose table of contents stands at the end of the file
        raise InputError(f"out={out}: {point.name} is not whole; {mend}")
    now = _flat(asdict(config))
    default = _flat(asdict(TrainConfig()))  # what a run had before a setting existed
    free = (
        *("out", "resume", "wandb.", "data.workers", "trainer.progress"),
        # `ResumePoint` compares their product.
        *("data.batch_size", "trainer.accumulate", "trainer.devices", "trainer.nodes"),
        *("trainer.accelerator", "trainer.strategy", "trainer.compile", "trainer.checkpoint_activations"),
        "trainer.fold_norms",
        *("teacher.cache", "teacher.max_batch", "data.cache"),
    )
    for name in sorted(former.keys() | now.keys()):
        before = former.get(name, default.get(name))
        if before != now.get(name) and not name.startswith(free):
            raise InputError(f"out={out} holds a run with {name}={before}, now {now.get(name)}; {mend}")
    if (out / TENSORS).is_file() and made_for(out).get("fingerprint") != classifier.fingerprint():
        raise InputError(f"out={out} holds a run with other weights of {classifier.name}; {mend}")
    return str(point)


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {prefix[:-1]: settings}
    return {name: value for key, part in settings.items() for name, value in _flat(part, f"{prefix}{key}.").items()}


def _announce(
    config: TrainConfig,
    explainer: MaskNetwork,
    data: TrainingImages,
    trainer: lightning.Trainer,
    resume_from: str | None,
) -> None:
    if not trainer.is_global_zero:
        return
    trained = sum(p.numel() for p in explainer.parameters() if p.requires_grad)
    effective = config.data.batch_size * config.trainer.accumulate * trainer.world_size
    print(
        f"classifier {explainer.classifier.name}, explainer {type(explainer).__name__} on {config.explainer.trunk} "
        f"trunk: {trained:,} trained parameters\n"
        f"{data.describe()}; {config.trainer.max_steps} steps of "
        f"{effective} images on {trainer.world_size} x {trainer.strategy.root_device.type}"
        + (f"\ngoing on from {resume_from}" if resume_from else ""),
        flush=True,
    )


def _report(out: Path, pace: str, broken: int) -> None:
    names = [TENSORS, CONFIG, "README.md", "metrics.csv", "last.ckpt"]
    pictures = sorted((out / "overlays").glob("*.png"))
    if pace:
        print(pace)
    if broken:
        print(f"{broken} images could not be read; the warnings above name them")
    print("wrote " + ", ".join(str(out / name) for name in names if (out / name).exists()))
    if pictures:
        print(f"wrote {len(pictures)} pictures, the last is {pictures[-1]}")


def card(config: TrainConfig, explainer: MaskNetwork, scores: dict[str, float], step: int) -> str:
    """The model card: classifier, data, objective, scores and versions, in Markdown."""
    terms = {name: value for name, value in asdict(config.objective).items() if value["weight"] != 0}
    lines = [
        f"{TITLE}{explainer.classifier.name}",
        "",
        "A mask network that writes, in one forward pass, the mask of the pixels that a prediction rests on. "
        "Load it with `ltx.load(folder)`; the classifier's weights are not part of it.",
        "",
        "| | |",
        "|---|---|",
        f"| classifier | `{explainer.classifier.name}`, {explainer.classifier.num_classes} classes, weights "
        f"`{config.classifier.weights or 'pretrained'}`, fingerprint `{explainer.classifier.fingerprint()}` |",
        f"| explainer | `{type(explainer).__name__}`, trunk `{config.explainer.trunk}`, "
        f"{'conditioned on the class' if explainer.conditioned else 'not conditioned'}, "
        f"{sum(p.numel() for p in explainer.parameters()):,} parameters |",
        f"| training images | `{config.data.shards or config.data.images}` (no labels used) |",
        f"| validation images | `{config.data.val_images or f'{config.data.val_share:.0%} held out'}` |",
        f"| training | {step} steps of {config.data.batch_size * config.trainer.accumulate} images a device, "
        f"seed {config.seed}, fill `{config.fill}`"
        + (f", from the weights of `{config.init}`" if config.init else "")
        + (f", taught by `{config.teacher.method}`" if "teacher" in terms else "")
        + " |",
        f"| versions | Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, "
        f"lightning {lightning.__version__} |",
        "",
        "Objective:",
        "",
        *(f"- `{name}`: " + ", ".join(f"{key} {value}" for key, value in term.items()) for name, term in terms.items()),
        "",
        "Scores on the validation images, one forward pass (`kept` and `removed`: the class's probability under the "
        "mask and under its complement, as a share of that of the whole image; fill as in training):",
        "",
        "| score | value |",
        "|---|---|",
        *(f"| {name.removeprefix('val/')} | {value:.4f} |" for name, value in sorted(scores.items())),
        "",
    ]
    return "\n".join(lines)
