"""Cost of a pretraining: images/s by model, precision and number of processes, and estimated hours and price."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ltx.bench.settings import VARIANTS, ScaleBench
from ltx.bench.timing import medians, take_turns
from ltx.bench.train import CLASSIFIER, STEP, step_and_parts
from ltx.classifier.classifier import Classifier
from ltx.explainers.settings import ExplainerConfig
from ltx.masking.fill import Fill
from ltx.objectives.objective import Objective
from ltx.runtime.devices import pick_device
from ltx.runtime.errors import InputError

TRAINING = (
    "from ltx.config.command_line import parse; from ltx.pretraining.run import run_pretraining; "
    "from ltx.pretraining.settings import TrainConfig; import sys; "
    "run_pretraining(parse(TrainConfig, sys.argv[1:], 'train.py', ''))"
)
PACE = re.compile(r"([\d.]+) images/s in training, ([\d.]+)% of the time waiting for data, peak memory ([\d.]+) GiB")


class Measured(NamedTuple):
    """Images/s of a training step, the classifier's share of the time, peak bytes, and operations per image."""

    rate: float
    share: float
    memory: int | None
    flops: float


def measure(config: ScaleBench) -> None:
    """Print images/s, the classifier's share and memory of each case, the scaling with processes, and the estimate."""
    if len(config.efficiency) != len(config.gpus):
        raise InputError(f"efficiency={config.efficiency} must have a number for each of gpus={config.gpus}")
    device = pick_device(config.device)
    gpu = device.type == "cuda"
    variants = config.variants or (VARIANTS if gpu else ["fp32", "bf16"])
    batch_size, repeats = config.batch_size or (64 if gpu else 2), config.repeats or (10 if gpu else 1)
    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}: training steps of {batch_size} images, median of {repeats} runs after a warm-up; random weights")
    print("  images/s    x fp32  classifier  peak memory  TFLOP/s")
    best: dict[str, Measured] = {}
    for model in config.models:
        reference = 0.0
        for variant in variants:
            measured = measure_step(model, variant, batch_size, repeats, device)
            reference = reference or measured.rate
            memory = "     unknown" if measured.memory is None else f"{measured.memory / 2**30:8.2f} GiB"
            print(
                f"  {measured.rate:8.2f}  {measured.rate / reference:7.2f}x  {measured.share:9.0%}  {memory}  "
                f"{measured.rate * measured.flops / 1e12:7.3f}  {model}, {variant}",
                flush=True,
            )
            if model not in best or measured.rate > best[model].rate:
                best[model] = measured
    _processes(config, device)
    _estimate(config, best, gpu, name)


def measure_step(model: str, variant: str, batch_size: int, repeats: int, device: torch.device) -> Measured:
    """Measure a training step of an untrained explainer for `model` in `variant`, one of `VARIANTS`."""
    gc.collect()  # frees the previous model: Lightning modules contain reference cycles
    precision, _, compiled = variant.partition("+")
    torch.manual_seed(0)
    classifier = Classifier(model, weights="random", precision=precision).to(device)  # type: ignore[arg-type]  # checked there
    explainer = ExplainerConfig().build(classifier)
    candidates = step_and_parts(explainer, Objective(), Fill(["black", "blur"]), batch_size, device)
    with FlopCounterMode(display=False) as counter:
        candidates[STEP]()
    if compiled:
        classifier.compile()
    _forget_peak(device)
    seconds = medians(take_turns(candidates, repeats, device))
    step = seconds.pop(STEP)
    share = sum(value for name, value in seconds.items() if name.startswith(CLASSIFIER)) / sum(seconds.values())
    return Measured(batch_size / step, share, _peak(device), counter.get_total_flops() / batch_size)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int | None:
    """Peak bytes since `_forget_peak`: of torch on a GPU, of the process on a CPU; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform != "linux":
        return None
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def _processes(config: ScaleBench, device: torch.device) -> None:
    """Time training runs with image decoding and gradient exchange; each process has one thread or one GPU."""
    most = torch.cuda.device_count() if device.type == "cuda" else os.cpu_count() or 1
    first = 0.0
    for processes in config.processes:
        if processes > most:
            print(f"{processes} processes: left out, because there are only {most} devices")
            continue
        with tempfile.TemporaryDirectory() as out:
            words = [
                *(f"classifier.name={config.training}", "classifier.weights=random", "data.workers=0"),
                *("data.batch_size=4", "data.val_share=0", f"trainer.max_steps={config.training_steps}"),
                *(f"trainer.validate_every={config.training_steps}", "trainer.checkpoint_every=100000"),
                *(f"trainer.devices={processes}", f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}"),
                *("trainer.overlays=0", "trainer.progress=false", f"out={out}"),
            ]
            start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            command = [*start, "--no-python", sys.executable, "-c", TRAINING, *words]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        pace = PACE.search(done.stdout)
        if pace is None:
            raise InputError(f"the training with {processes} processes failed: {done.stderr.strip()[-300:]}")
        rate = float(pace[1])
        first = first or rate / processes
        print(
            f"{processes} processes: {rate:.2f} images/s of {config.training} in training, "
            f"{rate / (processes * first):.0%} of {processes} x one; {pace[2]}% of the time waiting for data, "
            f"{pace[3]} GiB each",
            flush=True,
        )


def _estimate(config: ScaleBench, best: dict[str, Measured], gpu: bool, name: str) -> None:
    print(f"\n{config.epochs:g} epochs of {config.images:,} images, hours and US dollars by number of GPUs:")
    print("  " + "".join(f"{count:>20}" for count in config.gpus) + "   images/s on one")
    for model, measured in best.items():
        given = config.rates.get(model)
        rate = given or (measured.rate if gpu else config.tflops * 1e12 / measured.flops)
        cells = []
        for count, efficiency in zip(config.gpus, config.efficiency, strict=True):
            hours = config.epochs * config.images / (rate * count * efficiency) / 3600
            cells.append(f"{hours:10.2f} h {hours * count * config.price:7,.0f} $")
        origin = (
            "given"
            if given
            else f"measured, {name}"
            if gpu
            else f"assumed from {measured.flops / 1e9:.1f} GFLOP per image"
        )
        print("  " + "".join(cells) + f"   {rate:9.0f}, {origin}: {model}")
    shares = ", ".join(f"{share:.0%} on {count}" for count, share in zip(config.gpus, config.efficiency, strict=True))
    print(
        f"Assumed: {config.price:g} US dollars per GPU hour; images/s per GPU relative to one GPU: {shares}; data "
        "loading keeps up; no time for validation, checkpoints and queues; two masked images per image (the default "
        "objective), a shared trunk and the fastest of the measured precisions."
    )
    if not gpu and set(best) - set(config.rates):
        print(
            f"Assumed without a GPU: one GPU sustains {config.tflops:g} TFLOP/s (tflops=…) of the operations that "
            "torch counts in a step; small networks and depthwise convolutions sustain less. Run this benchmark on the "
            "GPU in question, or give its images/s as rates.MODEL=…"
        )
