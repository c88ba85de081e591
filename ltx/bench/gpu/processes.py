"""The same training with one process and with two on one device, and the difference of their curves."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ltx.bench.gpu.session import Session, images_word
from ltx.bench.scale import TRAINING
from ltx.bench.settings import GPU_IMAGES_PER_STEP
from ltx.runtime.errors import InputError

SECTION = "processes"
TOLERANCE = 5e-3  # AdamW turns a gradient that is nearly zero into a full step
GLOO = (
    "from lightning.pytorch.strategies import DDPStrategy; import ltx.pretraining.trainer as trainer; "
    "trainer.lightning_strategy = lambda name: DDPStrategy(process_group_backend='gloo'); "
)
"""NCCL does not accept two processes on one GPU; gloo does."""


def compare_processes(session: Session) -> None:
    """Train with one process and with two that share the device, with the same images in each step."""
    curves: dict[int, list[float]] = {}
    for processes in session.config.processes:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as out:
            _train(session, processes, Path(out))
            curves[processes] = _losses(Path(out) / "metrics.csv")
        seconds = time.monotonic() - start
        if not curves[processes]:
            raise InputError(f"the training with {processes} processes wrote no losses")
        losses = " ".join(f"{loss:.4f}" for loss in curves[processes][:6])
        session.table.add(
            SECTION,
            f"torchrun with {processes} processes",
            f"losses {losses}; {seconds:.0f} s with start",
            losses=curves[processes],
            seconds=seconds,
        )
    if len(curves) > 1:
        first, *others = curves.values()
        largest = max(abs(a - b) / abs(a) for other in others for a, b in zip(first, other, strict=True))
        verdict = "the same curve" if largest < TOLERANCE else "DIFFERENT curves"
        session.table.add(SECTION, "one process and two", f"{verdict}: largest relative difference {largest:.1e}",
                          difference=largest)  # fmt: skip


def training_words(session: Session, processes: int, out: Path) -> list[str]:
    """Arguments of `ltx train` for each process, which is its own node so that all use the first device."""
    words = [
        f"classifier.name={session.models[0]}",
        f"data.images={images_word(session.config.images)}",
        f"data.batch_size={GPU_IMAGES_PER_STEP // processes}",
        "data.val_share=0",
        "data.workers=0",
        f"trainer.max_steps={session.config.process_steps}",
        f"trainer.validate_every={session.config.process_steps}",
        "trainer.checkpoint_every=100000",
        "trainer.log_every=1",
        f"trainer.accelerator={'gpu' if session.on_gpu else 'cpu'}",
        "trainer.devices=1",
        f"trainer.nodes={processes}",
        "trainer.overlays=0",
        "trainer.progress=false",
        f"out={out}",
    ]
    if session.models[0] != "tf_efficientnet_lite0":
        words.append(f"classifier.weights={session.config.weights.get(session.models[0], 'random')}")
    if session.config.input_size is not None:
        words.append(f"classifier.input_size={session.config.input_size}")
    return words


def _train(session: Session, processes: int, out: Path) -> None:
    words = training_words(session, processes, out)
    code = GLOO + TRAINING if processes > 1 else TRAINING
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = []
    for rank in range(processes):
        start = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={processes}", "--nproc-per-node=1"]
        start += [f"--node-rank={rank}", "--master-addr=127.0.0.1", f"--master-port={port}", "--no-python"]
        command = [*start, sys.executable, "-c", code, *words]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    limit = max(120.0, session.seconds_left)
    try:
        outputs = [process.communicate(timeout=limit)[0].decode(errors="replace") for process in running]
    except subprocess.TimeoutExpired as error:
        raise InputError(f"the training with {processes} processes did not end within {limit:.0f} s") from error
    finally:
        for process in running:
            _stop(process)
    for process, output in zip(running, outputs, strict=True):
        if process.returncode:
            raise InputError(f"the training with {processes} processes failed: {' '.join(output.split())[-300:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End torchrun by a signal that it passes on: its training would otherwise keep the device."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()


def _losses(file: Path) -> list[float]:
    rows = csv.DictReader(file.read_text("utf-8").splitlines())
    return [float(row["train/loss"]) for row in rows if row.get("train/loss")]
