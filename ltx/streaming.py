"""Explain any number of images in constant memory, and go on where an interrupted run stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from ltx.checkpoints import write_beside
from ltx.classifier import Classifier, Target
from ltx.data.image_files import find_images, image_root
from ltx.data.images import Fit, ImageBatches, Skipped
from ltx.data.shards import counted, expand, is_shards
from ltx.data.shards.batches import ShardBatches
from ltx.errors import InputError
from ltx.explanation import Explanation
from ltx.progress import progress_bar
from ltx.result_files import finished, result_stems
from ltx.stored_results import MapShards, finished_maps

SETTINGS = "settings.yaml"
WRITTEN = {
    "pictures": "a picture and an .npz for each, and explanations.jsonl",
    "maps": "tar files with a map for each, and a .jsonl beside each of them",
}

Explain = Callable[[Tensor, list[Target], list[str]], Explanation]
"""Images `[B, 3, H, W]`, one target and one name each, to their explanation."""


@dataclass
class _Batch:
    """Images `[B, 3, H, W]`, and one name, one stem of result files and one target each."""

    images: Tensor
    names: list[str]
    stems: list[str]
    targets: list[Target]


@dataclass
class _Source:
    """What is left to do for one process: batches as they come, and what was skipped once they have come."""

    total: int
    done: int
    batches: Iterator[_Batch]
    skipped: Callable[[], Skipped]


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
    save: str = "pictures",
) -> int:
    """Explain files or shards batch by batch and write each explanation as soon as it is there.

    Under `torchrun` each process explains its share, the same one whatever is done already, and writes its own results.

    Args:
        images: see `ltx.data.images.find_images`; or shards, see `ltx.data.shards.expand`.
        explain: makes the explanation of a batch.
        classifier: says the images' size and checks the targets before any work.
        out: folder of the results; images that it holds already are not explained again.
        target: `predicted`, a class by index or name, or one for each image in the order of the files.
        batch_size: images at once.
        fit: how a picture becomes the classifier's size, see `ltx.data.images.resize`.
        workers: reading threads.
        settings: what determines the results beside the classifier; a folder with results of others is refused.
        save: `pictures` = see `Explanation.save`; `maps` = float16 maps in tar files, see `MapShards`.

    Returns:
        How many explanations the folder holds.

    Raises:
        InputError: no images, not one readable, a target that is no class, results of other settings in `out`, or
            several processes that were to write pictures.
    """
    out = Path(out)
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1 and save != "maps":
        raise InputError(f"save={save} is for one process; {ranks} processes write save=maps")
    if not isinstance(target, (int, str, Sequence)) or isinstance(target, bool):
        raise InputError(f"target={target} is no class; give predicted, an index, a name, or a list with one an image")
    make = _shards if is_shards(images) else _files
    found = finished_maps if save == "maps" else finished
    source = make(images, target, classifier, out, batch_size, fit, workers, rank, ranks, found)
    asked = target if isinstance(target, (int, str)) else list(target)
    determined_by = {
        "target": asked,
        **(settings or {}),
        "classifier_fingerprint": classifier.fingerprint(),
        "precision": classifier.precision,
        **({} if save == "pictures" else {"save": save}),
    }
    _claim(out, determined_by, not found(out))
    if source.done:
        print(f"{source.done} of {source.total} images are explained already in {out}")
    with ExitStack() as stack:
        maps = stack.enter_context(MapShards(out, rank, ranks)) if save == "maps" else None
        progress = stack.enter_context(progress_bar("explaining", shown=rank == 0))
        bar = progress.add_task("", total=source.total - source.done, rate="")
        for batch in source.batches:
            explanation = explain(batch.images.to(classifier.device), batch.targets, batch.names)
            if maps is not None:
                maps.append(explanation, batch.stems)
            else:
                explanation.save(out, batch.stems)
            task = progress.tasks[0]
            rate = f"{1 / task.speed:.2f} s/image" if task.speed else ""
            progress.update(bar, completed=task.completed + len(batch.names), rate=rate)
    if len(source.skipped()):
        print(source.skipped().summary())
    return len(found(out))


def _files(
    images: Any,
    target: Target | Sequence[Target],
    classifier: Classifier,
    out: Path,
    batch_size: int,
    fit: Fit,
    workers: int | None,
    rank: int,
    ranks: int,
    found: Callable[[Path], set[str]],
) -> _Source:
    paths = find_images(images, out)
    asked: list[Target] = [target] * len(paths) if isinstance(target, (int, str)) else list(target)
    if len(asked) != len(paths):
        raise InputError(f"target lists {len(asked)} classes for {len(paths)} images; give one, or one for each image")
    for one in {repr(one): one for one in asked if one != "predicted"}.values():
        classifier.class_index(one)
    by_path = dict(zip(paths, asked, strict=True))
    done, own = found(out), paths[rank::ranks]
    names = [str(path) for path in paths]
    # Results of other images, which an earlier command left here, must not be replaced.
    stems = dict(zip(paths, result_stems(names, image_root(images), done.difference(names)), strict=True))
    left = [path for path in own if str(path) not in done]
    others = ranks > 1 or len(left) < len(own)
    reader = ImageBatches(left, classifier.input_size, batch_size, fit, workers, all_may_fail=others)
    batches = (
        _Batch(pixels, [str(p) for p in part], [stems[p] for p in part], [by_path[p] for p in part])
        for part, pixels in reader
    )
    return _Source(len(own), len(own) - len(left), batches, lambda: reader.skipped)


def _shards(
    images: Any,
    target: Target | Sequence[Target],
    classifier: Classifier,
    out: Path,
    batch_size: int,
    fit: Fit,
    workers: int | None,
    rank: int,
    ranks: int,
    found: Callable[[Path], set[str]],
) -> _Source:
    if not isinstance(target, (int, str)):
        raise InputError("target must be one for all images where they come from shards")
    if target != "predicted":
        classifier.class_index(target)
    done = found(out)
    urls = expand(images)
    others = {_shard(name) for name in done}.difference(urls)
    folders = dict(zip(urls, result_stems(urls, others=others), strict=True))
    reader = ShardBatches(counted(urls), classifier.input_size, batch_size, fit, workers, done, rank, ranks)
    batches = (
        _Batch(
            pixels,
            [sample.name for sample in part],
            [f"{folders[_shard(sample.name)]}/{sample.key}" for sample in part],
            [target] * len(part),
        )
        for part, pixels in reader
    )
    # Which of the samples are done is only known by reading; those of all ranks are counted in their proportion.
    return _Source(len(reader), min(len(reader), len(done) // ranks), batches, lambda: reader.skipped)


def _shard(sample: str) -> str:
    """The shard of a sample's name, `…/000003.tar/n01440764/10026.jpg`."""
    return sample.rsplit(".tar/", 1)[0] + ".tar"


def _claim(out: Path, settings: dict[str, Any], empty: bool) -> None:
    """Write down what determines the results, or check that it is what is written there beside any of them."""
    file = out / SETTINGS
    if file.is_file() and not empty:
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
