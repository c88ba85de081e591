"""The images that a run still has to explain: files or samples of shards, with names and stems of their results."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ltx.classifier.class_names import Target
from ltx.classifier.classifier import Classifier
from ltx.data.finding import image_root, search_images
from ltx.data.image_batches import ImageBatches, Skipped
from ltx.data.reading import Fingerprint, Fit
from ltx.data.shards.batches import ShardBatches, absolute_sample
from ltx.data.shards.listing import counted, search_shards
from ltx.results.known_images import KnownImages, source_entry
from ltx.results.settings import ExplainConfig
from ltx.runtime.errors import InputError
from ltx.runtime.file_names import MAX_STEM_BYTES, free_name, result_stems


@dataclass
class Batch:
    """A batch of images to explain.

    Attributes:
        images: `[B, C, H, W]` in [0, 1].
        names: paths as the user gave them, or shards and members.
        stems: paths of the result files below `out`, without suffix.
        targets: target classes.
        extra: more entries of the images' records, which identify them.
    """

    images: Tensor
    names: list[str]
    stems: list[str]
    targets: list[Target]
    extra: list[dict[str, Any]]


class ImageSource(ABC):
    """The images of one process.

    Attributes:
        total: images of this process.
        done: those of them that are already explained, as far as that is known without reading them.
        changed: images whose content changed since they were explained, as far as they were read.
        left_out: one line on files that are not images and folders that cannot be listed; empty if there are none.
    """

    total: int
    done: int
    changed: int = 0
    left_out: str = ""

    def __init__(self, known: KnownImages) -> None:
        self.known = known
        self._stems = set(known.stems)

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """The images that are not explained yet."""

    @property
    @abstractmethod
    def skipped(self) -> Skipped:
        """Images that could not be read so far."""

    @property
    @abstractmethod
    def failed(self) -> list[tuple[str, str]]:
        """Entries of `images`, and shards, that could not be used so far."""

    def _claim_stem(self, stem: str, image: Fingerprint) -> str:
        """The stem, numbered if another result already has it."""
        if image.path in self.known:
            self.changed += 1
        free = free_name(stem, self._stems.__contains__)
        self._stems.add(free)
        return free


class FileSource(ImageSource):
    """Image files.

    Args:
        config: the images and how they are read.
        classifier: determines the size and the channels of the images.
        known: images with results.
        rank, ranks: take the files rank, rank + ranks, …
    """

    def __init__(
        self, config: ExplainConfig, classifier: Classifier, known: KnownImages, rank: int, ranks: int
    ) -> None:
        super().__init__(known)
        found = search_images(config.images, Path(config.out))
        self._found, self.left_out = found, found.summary() if rank == 0 else ""
        self._targets = dict(zip(found.files, _targets(config.target, len(found.files)), strict=True))
        self._stem_of = self._all_stems(config, found.files)
        mine = found.files[rank::ranks]
        remaining = [path for path in mine if not known.is_current(os.path.abspath(path))]
        self.total, self.done = len(mine), len(mine) - len(remaining)
        self._reader = ImageBatches(
            remaining,
            classifier.input_size,
            config.batch_size,
            cast(Fit, config.fit),
            all_may_fail=ranks > 1 or self.done > 0,
            known=known.has,
            channels=classifier.channels,
        )

    def batches(self) -> Iterator[Batch]:
        for paths, pixels in self._reader:
            images = [self._reader.fingerprints.pop(path) for path in paths]
            yield Batch(
                pixels,
                [str(path) for path in paths],
                [self._claim_stem(self._stem_of[path], image) for path, image in zip(paths, images, strict=True)],
                [self._targets[path] for path in paths],
                [source_entry(image) for image in images],
            )

    @property
    def skipped(self) -> Skipped:
        return self._reader.skipped

    @property
    def failed(self) -> list[tuple[str, str]]:
        # A single entry that fails is an error, not a partial failure.
        named = self._found.named if len(self._targets) > 1 else set()
        return self._found.failed + [(str(p), reason) for p, reason in self.skipped.files if p in named]

    def _all_stems(self, config: ExplainConfig, paths: Sequence[Path]) -> dict[Path, str]:
        """Stems that neither collide with each other nor with those of images of earlier commands."""
        names = [str(path) for path in paths]
        places = [os.path.abspath(path) for path in paths]
        root, others = image_root(config.images), self.known.paths.difference(places)
        stems = result_stems(names, root, others)
        # An earlier command may have found the same images below another folder, under another stem.
        moved = {
            place
            for place, stem in zip(places, stems, strict=True)
            if place in self.known and self._recorded_stem(config, place, stem) != stem
        }
        return dict(zip(paths, result_stems(names, root, others | moved) if moved else stems, strict=True))

    def _recorded_stem(self, config: ExplainConfig, place: str, stem: str) -> str | None:
        recorded = self.known.stem(place)
        if recorded is None and (config.save == "maps" or (Path(config.out) / f"{stem}.npz").exists()):
            return stem  # a record of an earlier release
        return recorded


class ShardSource(ImageSource):
    """Samples of shards.

    Args:
        config: the shards and how their images are read.
        classifier: determines the size and the channels of the images.
        known: images with results.
        rank, ranks: which share of the samples, see `ShardBatches`.
    """

    def __init__(
        self, config: ExplainConfig, classifier: Classifier, known: KnownImages, rank: int, ranks: int
    ) -> None:
        super().__init__(known)
        if not isinstance(config.target, (int, str)):
            raise InputError("target must be one class for all images if they come from shards")
        self._target: Target = config.target
        urls, self._missing = search_shards(config.images)
        places = {absolute_sample(url) for url in urls}
        others = {shard_of(path) for path in known.paths} - places
        self._folders = dict(zip(urls, result_stems(urls, others=others), strict=True))
        self._reader = ShardBatches(
            counted(urls, damaged=True),
            classifier.input_size,
            config.batch_size,
            cast(Fit, config.fit),
            known=known.has,
            channels=classifier.channels,
            rank=rank,
            ranks=ranks,
        )
        # Which samples are done is known only by reading; those of all ranks are counted in proportion.
        done = sum(shard_of(path) in places for path in known.paths)
        self.total = len(self._reader)
        self.done = min(self.total, done // ranks)

    def batches(self) -> Iterator[Batch]:
        for samples, pixels in self._reader:
            images = [self._reader.fingerprints.pop(sample.name) for sample in samples]
            stems = [f"{self._folders[shard_of(sample.name)]}/{_inside(sample.key)}" for sample in samples]
            yield Batch(
                pixels,
                [sample.name for sample in samples],
                [self._claim_stem(stem, image) for stem, image in zip(stems, images, strict=True)],
                [self._target] * len(samples),
                [source_entry(image) for image in images],
            )

    @property
    def skipped(self) -> Skipped:
        return self._reader.skipped

    @property
    def failed(self) -> list[tuple[str, str]]:
        return self._missing + self._reader.failed


def shard_of(sample: str) -> str:
    """The shard of a sample's name, `…/000003.tar/n01440764/10026.jpg`."""
    return sample.rsplit(".tar/", 1)[0] + ".tar"


def _inside(key: str) -> str:
    """A sample's key as a relative path that cannot leave its folder."""
    parts = [part for part in key.replace("\\", "/").replace("\0", "_").split("/") if part not in ("", ".")]
    return "/".join(_shortened("_" if part == ".." else part) for part in parts)


def _shortened(part: str) -> str:
    """A name that a file can have; a cut one ends in a hash of the whole."""
    name = os.fsencode(part)
    if len(name) <= MAX_STEM_BYTES:
        return part
    return name[: MAX_STEM_BYTES - 9].decode(errors="ignore") + f"_{hashlib.sha256(name).hexdigest()[:8]}"


def _targets(target: Any, count: int) -> list[Target]:
    """One target per image."""
    targets: list[Target] = [target] * count if isinstance(target, (int, str)) else list(target)
    if len(targets) != count:
        raise InputError(f"target lists {len(targets)} classes for {count} images; give one, or one for each image")
    return targets
