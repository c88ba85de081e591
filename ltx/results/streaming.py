"""Explain any number of images in constant memory, and go on where an interrupted run stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from ltx.classifier.class_names import Target
from ltx.classifier.classifier import Classifier
from ltx.data.finding import find_images, image_root
from ltx.data.reading import Fit, ImageBatches, Skipped
from ltx.data.shards.batches import ShardBatches
from ltx.data.shards.listing import counted, expand, is_shards
from ltx.results.explanation import Explanation
from ltx.results.map_shards import MapShards, finished_maps
from ltx.results.settings import ExplainConfig
from ltx.runtime.atomic_files import write_atomically
from ltx.runtime.errors import InputError
from ltx.runtime.file_names import finished, result_stems
from ltx.runtime.progress import progress_bar
from ltx.runtime.ranks import launched_ranks

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


def explain_files(config: ExplainConfig, explain: Explain, classifier: Classifier, settings: dict[str, Any]) -> int:
    """Explain files or shards batch by batch and write each explanation as soon as it is there.

    Under `torchrun` each process explains its share, the same one whatever is done already, and writes its own results.

    Args:
        config: which images, see `ltx.data.reading.find_images` and `ltx.data.shards.expand`; and how they are read and
            written, see `ltx.data.reading.resize`, `Explanation.save` and `MapShards`. Images that `out` holds already
            are not explained again.
        explain: makes the explanation of a batch.
        classifier: says the images' size and checks the targets before any work.
        settings: what determines the results beside the classifier; a folder with results of others is refused.

    Returns:
        How many explanations the folder holds.

    Raises:
        InputError: no images, not one readable, a target that is no class, results of other settings in `out`, or
            several processes that were to write pictures.
    """
    out, target, save = Path(config.out), config.target, config.save
    kept = finished_maps if save == "pictures" else finished
    rank, ranks = launched_ranks()
    if ranks > 1 and save != "maps":
        raise InputError(f"save={save} is for one process; {ranks} processes write save=maps")
    if not isinstance(target, (int, str, Sequence)) or isinstance(target, bool):
        raise InputError(f"target={target} is no class; give predicted, an index, a name, or a list with one an image")
    # Which class a name means is a matter of the names that the classifier was given.
    meant = classifier.classes([target] if isinstance(target, (int, str)) else target)
    make = _shards if is_shards(config.images) else _files
    found = finished_maps if save == "maps" else finished
    done = found(out)
    source = make(config, classifier, rank, ranks, done)
    determined_by = {
        "target": meant[0] if isinstance(target, (int, str)) else meant,
        **settings,
        "fit": config.fit,
        "classifier_fingerprint": classifier.fingerprint(),
        "precision": classifier.precision,
        **({} if save == "pictures" else {"save": save}),
    }
    _claim(out, determined_by, not done and not kept(out))
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


def _files(config: ExplainConfig, classifier: Classifier, rank: int, ranks: int, done: set[str]) -> _Source:
    paths, target = find_images(config.images, Path(config.out)), config.target
    asked: list[Target] = [target] * len(paths) if isinstance(target, (int, str)) else list(target)
    if len(asked) != len(paths):
        raise InputError(f"target lists {len(asked)} classes for {len(paths)} images; give one, or one for each image")
    by_path = dict(zip(paths, asked, strict=True))
    own = paths[rank::ranks]
    names = [str(path) for path in paths]
    # Results of other images, which an earlier command left here, must not be replaced.
    root, others = image_root(config.images), done.difference(names)
    stems = dict(zip(paths, result_stems(names, root, others), strict=True))
    if config.save == "pictures":
        # Nor those of these images that have other names: the earlier command found them below another folder.
        moved = {str(p) for p in paths if str(p) in done and not (Path(config.out) / f"{stems[p]}.npz").exists()}
        stems = dict(zip(paths, result_stems(names, root, others | moved), strict=True)) if moved else stems
    left = [path for path in own if str(path) not in done]
    some_done = ranks > 1 or len(left) < len(own)
    fit: Fit = config.fit  # type: ignore[assignment]
    reader = ImageBatches(left, classifier.input_size, config.batch_size, fit, all_may_fail=some_done)
    batches = (
        _Batch(pixels, [str(p) for p in part], [stems[p] for p in part], [by_path[p] for p in part])
        for part, pixels in reader
    )
    return _Source(len(own), len(own) - len(left), batches, lambda: reader.skipped)


def _shards(config: ExplainConfig, classifier: Classifier, rank: int, ranks: int, done: set[str]) -> _Source:
    target = config.target
    if not isinstance(target, (int, str)):
        raise InputError("target must be one for all images where they come from shards")
    urls = expand(config.images)
    others = {_shard(name) for name in done}.difference(urls)
    folders = dict(zip(urls, result_stems(urls, others=others), strict=True))
    fit: Fit = config.fit  # type: ignore[assignment]
    size = classifier.input_size
    reader = ShardBatches(counted(urls), size, config.batch_size, fit, done=done, rank=rank, ranks=ranks)
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
    of_these = sum(_shard(name) in folders for name in done)
    return _Source(len(reader), min(len(reader), of_these // ranks), batches, lambda: reader.skipped)


def _shard(sample: str) -> str:
    """The shard of a sample's name, `…/000003.tar/n01440764/10026.jpg`."""
    return sample.rsplit(".tar/", 1)[0] + ".tar"


def _claim(out: Path, settings: dict[str, Any], empty: bool) -> None:
    """Write down what determines the results, or check that it is what is written there beside any of them."""
    file = out / SETTINGS
    if file.is_file() and not empty:
        try:
            former = dict(yaml.safe_load(file.read_text()) or {})
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
            raise InputError(f"{file} cannot be read; choose another out=…, or remove it") from error
        for key in sorted(former.keys() | settings.keys()):
            if former.get(key) != settings.get(key):
                raise InputError(
                    f"out={out} contains explanations made with {key}={former.get(key)}, now {settings.get(key)}; "
                    "choose another out=…"
                )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(file, yaml.safe_dump(settings, sort_keys=False).encode())
