"""Batches of full images from shards, in order and in constant memory; each process reads its share."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from ltx.data.image_batches import Skipped, decoded_batches, default_workers
from ltx.data.reading import Fingerprint, Fit, read_resized
from ltx.data.shards.listing import Shard
from ltx.data.shards.tar_reading import Sample, local_path
from ltx.runtime.errors import InputError


class ShardBatches:
    """Batches of the samples in shards; threads decode ahead by one batch, unreadable samples are skipped.

    Iterating yields `(samples, images)` with `images` float32 `[B, C, H, W]` in [0, 1]. Rank r of R takes the samples
    from N·r/R to below N·(r + 1)/R. The shares do not depend on `known`, so ranks agree without communicating.

    Args:
        shards: see `counted`.
        size, batch_size, mode, workers, known, channels: see `ImageBatches`.
        rank: rank of this process.
        ranks: number of processes.

    Attributes:
        skipped: samples and shards that could not be read, or not to their end.
        failed: shards among them.
        fingerprints: identities of the samples of the batches so far, by name; the caller may remove them.
        known_count: samples that were not decoded because of `known`.

    Raises:
        InputError: at the end of the iteration, if a single process could read no sample and none is known.
    """

    def __init__(
        self,
        shards: list[Shard],
        size: int | tuple[int, int],
        batch_size: int,
        mode: Fit = "squash",
        workers: int | None = None,
        known: Callable[[Fingerprint], bool] | None = None,
        rank: int = 0,
        ranks: int = 1,
        channels: int = 3,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; give 1 or more")
        self.shards = shards
        self.size = size
        self.batch_size = batch_size
        self.mode: Fit = mode
        self.workers = workers or default_workers()
        self.known = known
        self.channels = channels
        total = sum(shard.samples for shard in shards)
        self.ranks = ranks
        self.first, self.end = total * rank // ranks, total * (rank + 1) // ranks
        self.skipped = Skipped()
        self.failed: list[tuple[str, str]] = []
        self.fingerprints: dict[str, Fingerprint] = {}
        self.known_count = 0

    def __len__(self) -> int:
        """Number of samples in this process's share, including known ones."""
        return self.end - self.first

    def __iter__(self) -> Iterator[tuple[list[Sample], Tensor]]:
        self.skipped, self.failed, self.known_count = Skipped(), [], 0
        readable = False
        encoded = self._encoded()
        for batch in decoded_batches(encoded, self._decode, self.batch_size, self.workers, self._refused):
            readable = True
            yield batch
        readable = readable or self.known_count > 0
        if self.skipped.files and not readable and self.ranks == 1:  # other processes may have readable ones
            raise InputError(f"none of the {len(self)} images can be read; {self.skipped.summary(3)}")

    def _decode(self, sample: Sample) -> Tensor | None:
        digest = hashlib.sha256(sample.image).hexdigest()
        fingerprint = Fingerprint(absolute_sample(sample.name), digest, len(sample.image))
        if self.known is not None and self.known(fingerprint):
            self.known_count += 1
            return None
        if not sample.image:
            raise InputError(f"{sample.name} contains no image")
        pixels = read_resized(sample.name, self.size, self.mode, self.channels, sample.image)
        self.fingerprints[sample.name] = fingerprint
        return pixels

    def _refused(self, sample: Sample, reason: str) -> None:
        self.skipped.files.append((Path(sample.name), reason))

    def _encoded(self) -> Iterator[Sample]:
        start = 0
        for shard in self.shards:
            low, high = max(self.first - start, 0), min(self.end - start, shard.samples)
            if self.first <= start < self.end or (not shard.samples and self.first == 0):
                # The rank that reads a shard's beginning reports what is left out of it.
                self.skipped.files += [(Path(name), reason) for name, reason in shard.left_out]
            start += shard.samples
            if low >= high and (shard.samples or self.first > 0):
                continue
            try:
                yield from itertools.islice(shard.read(), low, high)
                if high == shard.samples and shard.damage:
                    raise InputError(shard.damage)
            except InputError as error:
                self.skipped.files.append((Path(shard.url), str(error)))
                self.failed.append((shard.url, str(error)))


def absolute_sample(name: str) -> str:
    """The name of a sample with the absolute path of its shard; that of a remote shard stays unchanged."""
    return name if local_path(name) is None else os.path.abspath(name)
