"""Speed of finetuning, attribution and metrics, next to the classifier passes that they need."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ltx.attribution.attribute import attribute
from ltx.bench.gpu.session import Session
from ltx.bench.passes import passes_counted
from ltx.bench.timing import medians, take_turns
from ltx.checkpoints.loading import load
from ltx.classifier.classifier import CPU_ROWS, Classifier
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.metrics.perturbation import predict
from ltx.metrics.protocol import Batch, Settings
from ltx.metrics.registry import PROTOCOLS

SECTION = "explanations"


def time_explanations(session: Session) -> None:
    """Time finetuning of growing batches, the explainer's forward pass, attribution methods and the metrics."""
    explainer = explainer_for(session, session.config.checkpoint)
    classifier = explainer.classifier.fold_norms()
    counts = session.config.counts or ([1, 16, 64, 256] if session.on_gpu else [1, 4])
    images = session.images(classifier, max(counts)).to(session.device)
    bound = _PassTime(session, classifier, images)
    some = images[: min(len(images), 64 if session.on_gpu else 2)]
    rows = 256 if session.on_gpu else 8

    def report(name: str, images: Tensor, explain: Callable[[Tensor], object], bound: _PassTime = bound) -> None:
        what = f"{name}, {len(images)} images"
        session.attempt(SECTION, what, partial(_report, session, bound, what, images, explain))

    report("explainer, one pass", images[: counts[-1]], torch.no_grad()(explainer.forward))
    for count in counts:
        what = f"finetuning, {count} images at once"
        session.attempt(SECTION, what, partial(_time_finetuning, session, explainer, images[:count], bound))
    for name, options in _methods(session).items():
        report(name, some, partial(attribute, name.partition(",")[0], classifier, max_batch=rows, **options))
    report("metrics of the ltx protocol", some, lambda x: _metrics(classifier, x, rows))
    if session.config.inr_checkpoint:
        amortised = explainer_for(session, session.config.inr_checkpoint)
        amortised.classifier.fold_norms()
        report("inr, amortised", some, amortised.explain, _PassTime(session, amortised.classifier, some))
    for model in session.models[:2]:
        if model != classifier.name:
            other = session.classifier(model).to(session.device).fold_norms()
            method = partial(attribute, "iia2", other, max_batch=rows, variant="released")
            report(f"iia2, released, {model}", some, method, _PassTime(session, other, some))


def explainer_for(session: Session, checkpoint: str | None) -> MaskNetwork:
    """The checkpoint's explainer on the device, or an untrained one for the first model."""
    if checkpoint:
        return load(checkpoint, device=session.device)
    classifier = session.classifier(session.models[0]).to(session.device)
    torch.manual_seed(0)
    return ExplainerConfig().build(classifier).to(session.device).eval()


def _methods(session: Session) -> dict[str, dict[str, Any]]:
    """Methods to time, with options; on a CPU with few steps."""
    steps = 50 if session.on_gpu else 2
    return {"gradcam": {}, "iia2, released": {"variant": "released"}, "inr, fitted": {"steps": steps}}


class _PassTime:
    """Seconds of a forward pass, and of a forward and backward pass, for one image in a batch of `rows`."""

    def __init__(self, session: Session, classifier: Classifier, images: Tensor) -> None:
        rows = CPU_ROWS if not session.on_gpu else 256
        batch = images[:rows] if len(images) >= rows else images.repeat(-(-rows // len(images)), 1, 1, 1)[:rows]
        self.classifier, self.rows = classifier, rows

        @torch.no_grad()
        def forward() -> None:
            classifier(batch)

        def backward() -> None:
            total: Tensor = classifier(batch.clone().requires_grad_()).logsumexp(1).sum()
            total.backward()

        seconds = medians(
            take_turns({"forward": forward, "backward": backward}, max(2, session.repeats()), session.device)
        )
        self.forward, self.backward = seconds["forward"] / rows, seconds["backward"] / rows


def _report(session: Session, bound: _PassTime, what: str, images: Tensor, explain: Callable[[Tensor], object]) -> None:
    """Time a function of images and compare it with the forward passes that it makes."""
    explain(images)  # the first call of a method looks for its layers
    with passes_counted(bound.classifier) as counter:
        explain(images)
    passes = counter[0] / len(images)
    seconds = medians(take_turns({"run": lambda: explain(images)}, session.repeats(), session.device))["run"]
    rate, limit = len(images) / seconds, passes * bound.forward
    ratio = f" = {seconds / len(images) / limit:.2f} x the time of these passes at {bound.rows} rows" if limit else ""
    session.table.add(
        SECTION,
        what,
        f"{rate:.2f} images/s; {passes:.1f} forward passes per image{ratio}",
        images_per_second=rate,
        passes=passes,
        ratio=seconds / len(images) / limit if limit else None,
    )


def _time_finetuning(session: Session, explainer: MaskNetwork, images: Tensor, bound: _PassTime) -> None:
    """Time finetuning of all images at once, next to its forward and backward passes."""
    steps = session.config.steps or (25 if session.on_gpu else 2)

    def run(count: int, some: Tensor) -> None:
        finetune(explainer, some, steps=count, settings=FinetuneSettings(max_batch=len(some)))

    passes = {}
    for name, count in (("steps", steps), ("no steps", 0)):
        with passes_counted(bound.classifier) as counter:
            run(count, images[:1])
        passes[name] = counter[0]
    seconds = medians(take_turns({"steps": lambda: run(steps, images)}, 1, session.device))
    trained = passes["steps"] - passes["no steps"]
    limit = len(images) * (trained * bound.backward + passes["no steps"] * bound.forward)
    session.table.add(
        SECTION,
        f"finetuning, {len(images)} images at once, {steps} steps",
        f"{len(images) / seconds['steps']:.2f} images/s; {trained:.0f} passes forward and backward per image; "
        f"{seconds['steps'] / limit:.2f} x the time of these passes at {bound.rows} rows",
        images_per_second=len(images) / seconds["steps"],
        passes=trained,
        ratio=seconds["steps"] / limit,
    )


def _metrics(classifier: Classifier, images: Tensor, rows: int) -> None:
    targets = classifier.targets(0, torch.zeros(len(images), classifier.num_classes, device=images.device))
    names = [str(index) for index in range(len(images))]
    batch = Batch(names, images, targets, predict(classifier, images, targets, rows))
    protocol = PROTOCOLS["ltx"](Settings(rows))
    metrics = protocol.collection().to(images.device)
    maps = images.mean(1, keepdim=True)
    metrics.update(**protocol.measure(classifier, batch, maps, {}, lambda *_: maps))
    metrics.compute()
