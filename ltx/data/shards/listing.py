"""The shards that a setting means, and their numbers of samples."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltx.data.image_batches import default_workers
from ltx.data.shards.tar_reading import Content, Sample, inspect_shard, local_path, open_shard, read_shard
from ltx.runtime.errors import InputError
from ltx.runtime.json_text import parse_json
from ltx.runtime.private_api import expand_urls

MANIFEST = "manifest.json"
MAX_BRACES = 1_000_000
"""Shards that one pair of braces may stand for."""

Shards = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Shard:
    """A tar file.

    Attributes:
        url: URL or path.
        samples: number of samples.
        left_out: members that are left out although they may be images, each with the reason.
        damage: why it cannot be read to its end; empty if it can, or if that is not known.
    """

    url: str
    samples: int
    left_out: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    damage: str = ""

    def read(self) -> Iterator[Sample]:
        """Read at most `samples` samples in order, as one sequential read.

        Raises:
            InputError: the shard cannot be read that far, or contains fewer; the samples before are complete.
        """
        count = 0
        for sample in itertools.islice(read_shard(self.url), self.samples):
            count += 1
            yield sample
        if self.damage:
            raise InputError(self.damage)
        if count < self.samples:
            raise InputError(f"shard {self.url} contains {count} samples, {self.samples} by its manifest")


def is_shards(spec: Any) -> bool:
    """Whether a setting means images in tar files.

    It does if it is a URL, path or pattern that ends in `.tar`, a folder with a manifest of shards, or a list of such.
    """
    parts = [spec] if isinstance(spec, (str, Path)) else spec if isinstance(spec, (list, tuple)) else []
    return bool(parts) and all(str(part).endswith(".tar") or Path(str(part), MANIFEST).is_file() for part in parts)


def expand(spec: Shards) -> list[str]:
    """The URLs or paths of a setting, each once, in order.

    Args:
        spec: a path or URL, with braces for several (`{000000..001281}.tar`, `{a,b}.tar`); a local folder (its `.tar`
            files) or glob; or a list of any of these. Besides files, webdataset reads `http(s)`, `gs`, `hf` and `pipe:`
            URLs.

    Raises:
        InputError: no shard, or a local file or folder that does not exist.
    """
    urls, failed = search_shards(spec)
    if failed:
        raise InputError(failed[0][1])
    return urls


def search_shards(spec: Shards) -> tuple[list[str], list[tuple[str, str]]]:
    """The URLs or paths of a setting, and the entries or shards that do not exist, each with the reason.

    Raises:
        InputError: not one shard.
    """
    urls: dict[str, None] = {}
    failed: list[tuple[str, str]] = []
    for part in map(str, [spec] if isinstance(spec, (str, Path)) else spec):
        hits = _expand_one(part)
        if not hits:
            failed.append((part, f"shards={part} contains no .tar; make some with ltx shards"))
        for url in hits:
            place = local_path(url)
            if place is not None and not place.is_file():
                failed.append((url, f"shard {url} does not exist; check its path and the numbers in braces"))
            else:
                urls[url] = None
    if not urls:
        raise InputError(failed[0][1] if failed else "shards is an empty list; give URLs or paths of .tar files")
    return list(urls), failed


def _expand_one(part: str) -> list[str]:
    place = local_path(part)
    if place is not None and place.is_dir():
        return sorted(map(str, place.glob("*.tar")))
    if place is not None and place.exists():
        return [part]
    if place is not None and glob.has_magic(part):
        return sorted(glob.glob(part))
    for low, high in re.findall(r"\{(\d+)\.\.(\d+)\}", part):
        if int(high) - int(low) >= MAX_BRACES:
            raise InputError(f"shards={part}: the braces stand for more than {MAX_BRACES} shards")
    return expand_urls(part)


def counted(urls: Sequence[str], manifest: str | Path | None = None, damaged: bool = False) -> list[Shard]:
    """The shards with samples, and their counts.

    The counts come from a manifest; without one, local shards are counted by their headers.

    Args:
        urls: paths or URLs.
        manifest: written by `ltx shards`; None = `manifest.json` next to the shards, if it exists.
        damaged: also return damaged shards, with the samples before the damage.

    Raises:
        InputError: a manifest lacks a shard, remote shards have none, a shard is damaged, or there is no sample.
    """
    places = {url: str(manifest) if manifest is not None else _manifest_next_to(url) for url in urls}
    counts: dict[str, dict[str, Content] | None] = {
        place: _read_manifest(place, required=manifest is not None) for place in set(places.values())
    }
    contents: dict[str, Content] = {}
    for url, place in places.items():
        known = counts[place]
        if known is not None and _base(url) in known:
            contents[url] = known[_base(url)]
        elif known is not None:
            raise InputError(f"{place} does not list {_base(url)}; write it again with ltx shards")
        elif local_path(url) is None:
            raise InputError(
                f"shard {url}: there is no {place}, so its samples cannot be counted; count them once with "
                "ltx shards shards=… out=DIR, then set manifest=DIR/manifest.json"
            )
    uncounted = [url for url in urls if url not in contents]
    with ThreadPoolExecutor(default_workers()) as pool:
        contents |= dict(zip(uncounted, pool.map(inspect_shard, uncounted), strict=True))
    shards = [_shard(url, contents[url]) for url in urls]
    broken = [shard.damage for shard in shards if shard.damage]
    if broken and not (damaged and any(shard.samples for shard in shards)):
        raise InputError(broken[0])
    if not any(shard.samples for shard in shards):
        others = ", nor do the others" if len(urls) > 1 else ""
        reason = next((f"; {reason}" for shard in shards for _, reason in shard.left_out), "")
        raise InputError(f"shard {urls[0]} contains no sample{others}{reason}")
    return [shard for shard in shards if shard.samples or shard.damage or shard.left_out]


def _shard(url: str, content: Content) -> Shard:
    return Shard(url, content.samples, tuple(content.left_out), content.damage)


def _base(url: str) -> str:
    return url.rstrip("/").rsplit("/", 1)[-1]


def _manifest_next_to(url: str) -> str:
    folder, slash, _ = url.rpartition("/")
    return f"{folder}{slash}{MANIFEST}"


def _read_manifest(place: str, required: bool) -> dict[str, Content] | None:
    path = local_path(place)
    try:
        if path is not None and not path.is_file() and not required:
            return None
        if place.startswith("pipe:"):
            return None
        with open_shard(place) as stream:
            content: Any = parse_json(stream.read())
        return {
            os.fspath(entry["name"]): Content(_count(entry["samples"]), damage=str(entry.get("damage", "")))
            for entry in content["shards"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if path is None and not required:
            return None
        raise InputError(f"manifest={place} cannot be read: {' '.join(str(error).split())[:200]}") from error


def _count(samples: object) -> int:
    if not isinstance(samples, int) or not 0 <= samples < 1 << 31:
        raise ValueError(f"samples={samples} is not a valid count")
    return samples
