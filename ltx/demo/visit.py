"""What one visitor sees: a photograph, the class that is explained, and the explanation. Knows nothing of the web."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ltx.attribution.attribute import attribute
from ltx.attribution.registry import METHODS
from ltx.attribution.support import check_method
from ltx.classifier.classifier import Classifier
from ltx.data.reading import read_resized
from ltx.explainers.mask_network import MaskNetwork
from ltx.finetuning.finetune import finetune
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.results.explanation import Explanation
from ltx.runtime.errors import InputError

LIKELIEST = 5


@dataclass
class Visit:
    """A visitor's photograph.

    Attributes:
        explainer: shared by all visitors; only one of them may use it at a time.
        images: the photograph, `[1, C, H, W]` in [0, 1].
        name: name of the uploaded file.
        logits: `[K]`.
        explanation: of the target class; None before the first.
        stop: set when a refinement should end.
    """

    explainer: MaskNetwork
    images: Tensor
    name: str
    logits: Tensor
    explanation: Explanation | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def classifier(self) -> Classifier:
        return self.explainer.classifier

    @property
    def shown(self) -> Explanation:
        """The explanation.

        Raises:
            InputError: there is none yet.
        """
        if self.explanation is None:
            raise InputError("there is no photograph yet; drop or paste one")
        return self.explanation

    def likeliest(self) -> list[tuple[int, str, float]]:
        """Index, name and probability of the likeliest classes, in descending order."""
        chances = self.classifier.probabilities(self.logits)
        values, indices = chances.topk(min(LIKELIEST, len(chances)))
        return [
            (index, self.classifier.label(index), value)
            for index, value in zip(indices.tolist(), values.tolist(), strict=True)
        ]

    def explain(self, target: int | None = None) -> Explanation:
        """Explain a class in one forward pass; None = the predicted class."""
        self.explanation = self.explainer.explain(self.images, target, names=[self.name])
        return self.explanation

    def refine(self, steps: int) -> Iterator[int]:
        """Finetune the explainer on the photograph, for the class that is shown.

        Yields the number of finished steps; afterwards `explanation` is the refined one. It ends early, with what it
        has, when `stop` is set; a generator that is closed leaves the explanation as it was.
        """
        self.stop.clear()
        target = int(self.shown.targets[0])
        reports: queue.Queue[int | BaseException | Explanation] = queue.Queue()
        done = steps

        def on_step(step: int) -> bool:
            nonlocal done
            if self.stop.is_set():
                done = step
                return False
            reports.put(step)
            return True

        def work() -> None:
            try:
                settings = FinetuneSettings(on_step=on_step)
                reports.put(finetune(self.explainer, self.images, target, steps, settings, names=[self.name]))
            except BaseException as error:  # raised again in the visitor's thread
                reports.put(error)

        thread = threading.Thread(target=work, name="refinement", daemon=True)
        thread.start()
        try:
            while True:
                report = reports.get()
                if isinstance(report, BaseException):
                    raise report
                if isinstance(report, Explanation):
                    self.explanation = replace(report, steps=done)
                    return
                yield report
        finally:
            # The explainer is free for the next visitor only when the thread has ended.
            self.stop.set()
            thread.join()

    def other_methods(self, methods: list[str], max_batch: int) -> Iterator[Explanation]:
        """Explanations of the shown class by attribution methods, one after the other."""
        targets = self.shown.targets
        for method in methods:
            maps = attribute(method, self.classifier, self.images, targets, max_batch=max_batch)
            yield Explanation(
                images=self.images,
                maps=maps,
                targets=targets,
                labels=self.shown.labels,
                probability=self.shown.probability,
                method=method,
                names=[self.name],
            )


@torch.no_grad()
def begin(explainer: MaskNetwork, file: Path, name: str) -> Visit:
    """Read an upload and classify it.

    Args:
        explainer: see `Visit`.
        file: the uploaded file.
        name: what the visitor calls it.

    Raises:
        InputError: it is not an image, damaged or too large; the message names it as the visitor does.
    """
    classifier = explainer.classifier
    try:
        pixels = read_resized(file, classifier.input_size, channels=classifier.channels)
    except InputError as error:
        raise InputError(str(error).replace(str(file), name)) from error
    images = pixels[None].to(classifier.device) / 255
    return Visit(explainer, images, name, classifier(images)[0])


def usable_methods(classifier: Classifier) -> list[str]:
    """The attribution methods that work on a classifier."""
    usable = []
    for method in METHODS:
        try:
            check_method(method, classifier, {})
        except InputError:
            continue
        usable.append(method)
    return usable
