"""A training of the recommended configuration in the remaining time, and its scores next to the shipped explainer's."""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path
from typing import Any

from ltx.bench.gpu.session import Session, images_word
from ltx.classifier.settings import ClassifierConfig
from ltx.config.command_line import parse
from ltx.evaluation.run import evaluate
from ltx.evaluation.settings import EvaluationConfig
from ltx.pretraining.run import run_pretraining
from ltx.pretraining.settings import TrainConfig

SECTION = "recipe"
SCORES = ("NEG-POS", "INS-DEL", "POS", "NEG", "DEL", "INS", "ADP", "PIC")


def train_recipe(session: Session) -> None:
    """Train for the remaining time, less the time of the evaluation, and evaluate on `val_images`."""
    config = session.config
    out = Path(config.out) / "recipe"
    shutil.rmtree(out, ignore_errors=True)
    steps = config.recipe_steps or _affordable_steps(session, out)
    start = time.monotonic()
    folder = _train(session, out / "train", steps)
    seconds = time.monotonic() - start
    images = steps * config.recipe_batch
    text = (
        f"{steps} steps of {config.recipe_batch} images in {seconds:.0f} s, {images / seconds:.0f} images/s with start"
    )
    session.table.add(SECTION, f"training of {session.models[0]}, {config.recipe or 'default configuration'}", text,
                      steps=steps, seconds=seconds)  # fmt: skip
    methods = [f"trained=ltx:{folder}"]
    if config.checkpoint:
        methods.append(f"shipped=ltx:{config.checkpoint}")
    scores = evaluate(
        EvaluationConfig(
            classifier=ClassifierConfig(**_classifier(session)),
            methods=[*methods, "gradcam", "random"],
            images=config.images if config.val_images is None else config.val_images,
            limit=config.val_limit,
            gallery=0,
            device=str(session.device),
            out=str(out / "scores"),
        )
    )
    assert scores is not None
    for skipped in scores["skipped_images"]:
        session.table.add(SECTION, f"skipped {skipped['image']}", skipped["reason"])
    for label, why in scores["left_out_methods"].items():
        session.table.add(SECTION, f"scores of {label}", f"left out: {why}")
    for label, values in scores["methods"].items():
        text = ", ".join(f"{key} {values[key]['mean']:.1f}" for key in SCORES)
        session.table.add(SECTION, f"scores of {label}, {scores['n']} images", text, **values)


def _affordable_steps(session: Session, out: Path) -> int:
    """Steps that fit into 70 % of the remaining time, from the pace of a short training after its first steps."""
    trial = 60 if session.on_gpu else 12
    start = time.monotonic()
    _train(session, out / "trial", trial)
    total = time.monotonic() - start
    rows = csv.DictReader((out / "trial" / "metrics.csv").read_text("utf-8").splitlines())
    pace = [(int(row["step"]), float(row["seconds"])) for row in rows if row.get("train/loss")]
    (first, begun), (last, ended) = pace[1], pace[-1]
    step = max(1e-3, (ended - begun) / (last - first))
    return max(trial, int((0.7 * session.seconds_left - (total - trial * step)) / step))


def _classifier(session: Session) -> dict[str, Any]:
    model = session.models[0]
    weights = session.config.weights.get(model, None if model == "tf_efficientnet_lite0" else "random")
    return {"name": model, "weights": weights, "input_size": session.config.input_size}


def _train(session: Session, out: Path, steps: int) -> Path:
    return run_pretraining(parse(TrainConfig, training_words(session, out, steps), "ltx train", ""))


def training_words(session: Session, out: Path, steps: int) -> list[str]:
    """Arguments of `ltx train`."""
    config = session.config
    words = [f"config={config.recipe}"] if config.recipe else []
    words += [f"classifier.{key}={value}" for key, value in _classifier(session).items() if value is not None]
    images = config.train_images if config.train_images is not None else config.images
    return [
        *words,
        f"data.images={images_word(images)}",
        f"data.batch_size={config.recipe_batch}",
        f"trainer.max_steps={steps}",
        f"trainer.validate_every={steps}",
        f"trainer.log_every={max(1, steps // 6)}",
        "trainer.checkpoint_every=100000",
        f"trainer.accelerator={'gpu' if session.on_gpu else 'cpu'}",
        "trainer.devices=1",
        f"trainer.precision={'bf16' if session.on_gpu else 'fp32'}",
        "trainer.progress=false",
        "trainer.overlays=2",
        *([] if session.on_gpu else ["data.workers=0"]),
        f"out={out}",
    ]
