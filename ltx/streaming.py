"""Explain any number of image files in constant memory, and go on where an interrupted run stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from ltx.checkpoints import write_beside
from ltx.classifier import Classifier, Target
from ltx.data.images import Fit, ImageBatches, find_images, image_root
from ltx.errors import InputError
from ltx.explanation import Explanation, finished, result_stems
from ltx.progress import progress_bar

SETTINGS = "settings.yaml"

Explain = Callable[[Tensor, list[Target], list[str]], Explanation]
"""Images `[B, 3, H, W]`, one target and one name each, to their explanation."""


def explain_files(
    images: Any,
    explain: Explain,
    classifier: Classifier,
    out: str | Path,
    target: Target | Sequence[Target] = "predicted",
    batch_size: int = 16,
    fit: Fit = "squash",
    workers: int | None = None,
    settings: dict[str, Any] | None = None,
) -> int:
    """Explain files batch by batch and write each explanation as soon as it is there.

    Args:
        images: see `ltx.data.images.find_images`.
        explain: makes the explanation of a batch.
        classifier: says the images' size and checks the targets before any work.
        out: folder of the results; images that it holds already are not explained again.
        target: `predicted`, a class by index or name, or one for each image in the order of the files.
        batch_size: images at once.
        fit: how a picture becomes the classifier's size, see `ltx.data.images.resize`.
        workers: reading threads.
        settings: what determines the results; a folder with results of other settings is refused.

    Returns:
        How many explanations the folder holds.

    Raises:
        InputError: no images, not one readable, a target that is no class, or results of other settings in `out`.
    """
    out = Path(out)
    place = out.resolve()  # a repeated run must not explain its own pictures
    paths = [path for path in find_images(images) if place not in path.resolve().parents]
    asked: list[Target] = [target] * len(paths) if isinstance(target, (int, str)) else list(target)
    if len(asked) != len(paths):
        raise InputError(f"target lists {len(asked)} classes for {len(paths)} images; give one, or one for each image")
    for one in set(asked) - {"predicted"}:
        classifier.class_index(one)
    _claim(out, settings or {})
    done = finished(out)
    by_path = dict(zip(paths, asked, strict=True))
    batches = ImageBatches(
        [path for path in paths if str(path) not in done], classifier.input_size, batch_size, fit, workers
    )
    stems = dict(zip(paths, result_stems([str(path) for path in paths], image_root(images)), strict=True))
    if done:
        print(f"{len(done)} of {len(paths)} images are explained already in {out}")
    with progress_bar("explaining") as progress:
        bar = progress.add_task("", total=len(batches.paths), rate="")
        for names, pixels in batches:
            explanation = explain(
                pixels.to(classifier.device), [by_path[name] for name in names], [str(name) for name in names]
            )
            explanation.save(out, [stems[name] for name in names])
            task = progress.tasks[0]
            rate = f"{1 / task.speed:.2f} s/image" if task.speed else ""
            progress.update(bar, completed=task.completed + len(names), rate=rate)
    if len(batches.skipped):
        print(batches.skipped.summary())
    return len(finished(out))


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Write down what determines the results, or check that it is what is written there."""
    file = out / SETTINGS
    if file.is_file():
        former = yaml.safe_load(file.read_text()) or {}
        for key in sorted(former.keys() | settings.keys()):
            if former.get(key) != settings.get(key):
                raise InputError(
                    f"out={out} holds explanations made with {key}={former.get(key)}, now {settings.get(key)}; "
                    "choose another out=…"
                )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_beside(file, yaml.safe_dump(settings, sort_keys=False).encode())
