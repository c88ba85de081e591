"""Explain any number of images in constant memory, and resume an interrupted run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from ltx.classifier.class_names import Target
from ltx.classifier.classifier import Classifier
from ltx.classifier.identity import own_settings
from ltx.data.shards.listing import is_shards
from ltx.results.explanation import Explanation
from ltx.results.known_images import KnownImages, known_images
from ltx.results.map_shards import MapShards, finished_maps, map_records
from ltx.results.settings import ExplainConfig
from ltx.results.sources import FileSource, ImageSource, ShardSource
from ltx.runtime.atomic_files import write_atomically
from ltx.runtime.errors import InputError
from ltx.runtime.exclusive_folder import exclusive
from ltx.runtime.file_names import finished, records
from ltx.runtime.progress import progress_bar
from ltx.runtime.ranks import launched_ranks
from ltx.runtime.yaml_files import read_yaml

SETTINGS = "settings.yaml"
WRITTEN = {
    "pictures": "a picture and an .npz for each, and explanations.jsonl",
    "maps": "tar files with a map for each, and a .jsonl next to each of them",
}

Explain = Callable[[Tensor, list[Target], list[str]], Explanation]
"""Explains a batch: images `[B, 3, H, W]`, B targets and B names."""


@dataclass(frozen=True)
class Explained:
    """The result of a run.

    Attributes:
        count: explanations in the folder.
        failed: entries of `images`, and shards, that could not be used, or not to their end, each with the reason.
    """

    count: int
    failed: list[tuple[str, str]]


def explain_files(
    config: ExplainConfig, explain: Explain, classifier: Classifier, settings: dict[str, Any]
) -> Explained:
    """Explain files or shards batch by batch, and write each explanation as soon as it is computed.

    Under `torchrun` each process explains a fixed share of the images and writes its own results. Images that are
    already explained in `out`, see `KnownImages`, are not explained again.

    Args:
        config: the images, see `ltx.data.finding.search_images` and `ltx.data.shards.listing.search_shards`; how they
            are read, see `ltx.data.reading.resize`; and how they are written, see `Explanation.save` and `MapShards`.
        explain: explains a batch.
        classifier: provides the size of the images and checks the targets before any work.
        settings: everything else that determines the results; a folder with results of other settings is refused.

    Raises:
        InputError: no images, none that can be read, an invalid target, results of other settings in `out`, or several
            processes that would write pictures.
    """
    rank, ranks = launched_ranks()
    if ranks > 1 and config.save != "maps":
        raise InputError(f"save={config.save} is for one process; {ranks} processes write save=maps")
    determined_by = _determined_by(config, classifier, settings)
    out = Path(config.out)
    with exclusive(out):  # another command's results must not appear after they were looked for
        known = known_images(out, config.save)
        kind = ShardSource if is_shards(config.images) else FileSource
        source: ImageSource = kind(config, classifier, known, rank, ranks)
        _claim(out, determined_by, known)
        if source.done:
            print(f"{source.done} of {source.total} images are explained already in {out}")
        _explain_all(config, explain, classifier, source)
    if source.changed:
        plural = "s have" if source.changed > 1 else " has"
        print(f"{source.changed} image{plural} changed since the last explanation, which is kept")
    for line in (source.skipped.summary(), source.left_out):
        if line:
            print(line)
    written = map_records(out) if config.save == "maps" else records(out)
    return Explained(sum(1 for _ in written), source.failed)


def _explain_all(config: ExplainConfig, explain: Explain, classifier: Classifier, source: ImageSource) -> None:
    out = Path(config.out)
    rank, ranks = launched_ranks()
    with ExitStack() as stack:
        maps = stack.enter_context(MapShards(out, rank, ranks)) if config.save == "maps" else None
        progress = stack.enter_context(progress_bar("explaining", shown=rank == 0))
        bar = progress.add_task("", total=source.total - source.done, rate="")
        for batch in source.batches():
            explanation = explain(batch.images.to(classifier.device), batch.targets, batch.names)
            if maps is not None:
                maps.append(explanation, batch.stems, batch.extra)
            else:
                explanation.save(out, batch.stems, batch.extra)
            task = progress.tasks[0]
            rate = f"{1 / task.speed:.2f} s/image" if task.speed else ""
            progress.update(bar, completed=task.completed + len(batch.names), rate=rate)


def _determined_by(config: ExplainConfig, classifier: Classifier, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything that determines the results."""
    target = config.target
    if not isinstance(target, (int, str, Sequence)) or isinstance(target, bool):
        raise InputError(
            f"target={target} is not a valid class; give predicted, an index, a name, or a list with one per image"
        )
    # By index: the meaning of a name depends on the classifier's class names.
    one = isinstance(target, (int, str))
    classes = classifier.classes([target] if isinstance(target, (int, str)) else target)
    own = own_settings(classifier)
    return {
        "target": classes[0] if one else classes,
        **settings,
        "fit": config.fit,
        "classifier_fingerprint": classifier.fingerprint(),
        "precision": classifier.precision,
        **({"classifier_settings": own} if own else {}),
        **({} if config.save == "pictures" else {"save": config.save}),
    }


def _claim(out: Path, settings: dict[str, Any], known: KnownImages) -> None:
    """Write the settings to `out`, or check that they equal those of the results there."""
    file = out / SETTINGS
    other_kind = finished(out) if "save" in settings else finished_maps(out)
    if file.is_file() and (known or other_kind):
        try:
            previous = dict(read_yaml(file) or {})
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise InputError(f"{file} cannot be read; choose another out=…, or remove it") from error
        for key in sorted(previous.keys() | settings.keys(), key=str):
            if previous.get(key) != settings.get(key):
                raise InputError(
                    f"out={out} contains explanations made with {key}={previous.get(key)}, now {settings.get(key)}; "
                    "choose another out=…"
                )
        return
    write_atomically(file, yaml.safe_dump(settings, sort_keys=False).encode())
