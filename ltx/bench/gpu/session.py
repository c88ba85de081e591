"""State that the measurements of `ltx bench gpu` share: settings, device, table and remaining time."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ltx.bench.settings import GPUBench
from ltx.bench.table import Table
from ltx.classifier.classifier import Classifier
from ltx.classifier.settings import ClassifierConfig
from ltx.data.finding import find_images
from ltx.data.reading import load_images


@dataclass
class Session:
    """A run of `ltx bench gpu`."""

    config: GPUBench
    device: torch.device
    table: Table

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def __post_init__(self) -> None:
        self.deadline = 60 * self.config.minutes

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline of the current item."""
        return self.deadline - self.table.elapsed

    def attempt(self, section: str, what: str, measurement: Callable[[], None]) -> None:
        """Run a measurement that adds its own lines; if there is no time or it fails, the line says so."""
        if self.seconds_left <= 0:
            self.table.add(section, what, "skipped: the time of this item is over")
            return
        try:
            measurement()
        except Exception as error:  # a measurement that fails must not end the run
            self.table.add_failure(section, what, error)
        gc.collect()  # outside the handler, whose traceback would keep the tensors
        if self.on_gpu:
            torch.cuda.empty_cache()

    @cached_property
    def models(self) -> list[str]:
        return self.config.models or (GPU_MODELS if self.on_gpu else GPU_MODELS[:2])

    def classifier(self, model: str, precision: str = "fp32") -> Classifier:
        """A classifier on the CPU: EfficientNet-Lite0 with its weights, others with `weights` or random ones."""
        weights = self.config.weights.get(model, None if model == "tf_efficientnet_lite0" else "random")
        torch.manual_seed(0)
        return ClassifierConfig(model, weights, input_size=self.config.input_size, precision=precision).build()

    def images(self, classifier: Classifier, count: int) -> Tensor:
        """Photographs `[count, 3, H, W]` on the CPU, repeated if there are fewer."""
        files = find_images(self.config.images)
        return load_images(
            [files[i % len(files)] for i in range(count)], classifier.input_size, channels=classifier.channels
        )

    def repeats(self) -> int:
        return self.config.repeats or (5 if self.on_gpu else 1)


def images_word(images: Any) -> str:
    """The value of a setting of images for another command: elements of a list are quoted, for spaces and commas."""
    return json.dumps([str(entry) for entry in images], ensure_ascii=False) if isinstance(images, list) else str(images)


GPU_MODELS = ["tf_efficientnet_lite0", "deit_tiny_patch16_224", "resnet50", "vit_base_patch16_224"]


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Switch TF32 off, so that fp32 on a GPU has the precision of fp32 on a CPU."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
