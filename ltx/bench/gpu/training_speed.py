"""Throughput of training steps, next to the rate of matrix products and of the data loader."""

from __future__ import annotations

import math
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from ltx.bench.gpu.session import Session
from ltx.bench.scale import measure_step
from ltx.bench.timing import medians, take_turns
from ltx.data.finding import find_images
from ltx.data.folder import FolderData
from ltx.data.reading import read_image
from ltx.data.training_images import StreamSettings

SECTION = "training"


def time_training(session: Session) -> None:
    """Time training steps of each model in fp32, bf16 and bf16 with compilation, and the loader."""
    rates = matrix_rates(session)
    loader = loader_rate(session)
    batch_size = session.config.batch_size or (64 if session.on_gpu else 2)
    cases = [(model, variant) for model in session.models for variant in ("fp32", "bf16")]
    if session.on_gpu or session.config.compile:
        cases += [(model, "bf16+compile") for model in session.models]  # last: compiling takes longest

    def time_case(model: str, variant: str, what: str) -> None:
        step = measure_step(model, variant, batch_size, session.repeats(), session.device)
        achieved = step.rate * step.flops / 1e12
        peak = rates[variant.partition("+")[0]]
        memory = "unknown" if step.memory is None else f"{step.memory / 2**30:.1f} GiB"
        # torch's defaults, as in a training: convolutions use TF32, matrix products do not
        exact = " without TF32, which the convolutions use" if variant == "fp32" and session.on_gpu else ""
        cores = math.ceil(step.rate / loader)
        session.table.add(
            SECTION,
            what,
            f"{step.rate:.1f} images/s; {step.share:.0%} of the time in the classifier; {achieved:.2f} TFLOP/s = "
            f"{achieved / peak:.0%} of the matrix rate{exact}; peak memory {memory}; loader: {cores} cores keep up",
            images_per_second=step.rate,
            classifier_share=step.share,
            tflops=achieved,
            matrix_share=achieved / peak,
            memory=step.memory,
            loader_cores=cores,
        )

    for model, variant in cases:
        what = f"{model}, {variant}, {batch_size} images per step"
        session.attempt(SECTION, what, partial(time_case, model, variant, what))


def matrix_rates(session: Session) -> dict[str, float]:
    """TFLOP/s of a large matrix product in fp32 (as the training uses it) and bf16."""
    side = 8192 if session.on_gpu else 768
    rates = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(side, side, device=session.device, dtype=dtype) for _ in range(2))
        seconds = medians(take_turns({"product": lambda a=a, b=b: a @ b}, 5, session.device))["product"]  # type: ignore[misc]  # lambda
        rates[precision] = 2 * side**3 / seconds / 1e12
        text = f"{rates[precision]:.2f} TFLOP/s for {side} x {side} matrices"
        session.table.add(SECTION, f"matrix rate, {precision}", text, tflops=rates[precision])
    return rates


def loader_rate(session: Session) -> float:
    """Images/s of the loader on one core, for JPEGs with a longer side of 500 pixels and crops of 224."""
    count = 64
    with tempfile.TemporaryDirectory() as place:
        files = find_images(session.config.images)
        for index in range(count):
            image = read_image(files[index % len(files)])
            image.thumbnail((500, 500))
            image.save(Path(place) / f"{index:03d}.jpg", quality=90)
        data = FolderData(place, StreamSettings(224, 16, 3 * count // 16, val_share=0, workers=0))
        data.setup()
        batches = iter(data.train_dataloader())
        next(batches)
        start = time.perf_counter()
        images = sum(len(batch["image"]) for batch in batches)
        rate = images / (time.perf_counter() - start)
    session.table.add(SECTION, "loader", f"{rate:.0f} images/s on one core (decode and crop)", images_per_second=rate)
    return rate
