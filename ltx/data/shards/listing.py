"""Which shards are meant, and how many samples each holds."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import webdataset

from ltx.data.finding import SUFFIXES
from ltx.data.reading import default_workers, opened
from ltx.runtime.errors import InputError
from ltx.runtime.private_api import expand_urls, split_member_name, tar_samples

MANIFEST = "manifest.json"

Shards = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Shard:
    """A tar file by its URL or path, and how many samples it holds."""

    url: str
    samples: int

    def read(self) -> Iterator[Sample]:
        """Its samples in order, no more than it should hold, as one sequential read.

        Raises:
            InputError: it cannot be read that far, or ends before; what came is whole.
        """
        count = 0
        for sample in itertools.islice(read_shard(self.url), self.samples):
            count += 1
            yield sample
        if count < self.samples:
            raise InputError(f"shard {self.url} holds {count} samples, {self.samples} by its manifest")


@dataclass(frozen=True)
class Sample:
    """A picture in its encoded form.

    Attributes:
        key: its name within the shard, without suffix.
        name: shard and file, as results and errors name it: `…/000003.tar/n01440764/10026.jpg`.
        image: the encoded picture; empty where the sample holds none.
        label: its class, or None.
    """

    key: str
    name: str
    image: bytes
    label: int | None


def is_shards(spec: Any) -> bool:
    """Whether images are meant that lie in tar files: a URL, path or pattern that ends in `.tar`, a folder with the
    manifest of its shards, or a list of such."""
    parts = [spec] if isinstance(spec, (str, Path)) else spec if isinstance(spec, (list, tuple)) else []
    return bool(parts) and all(str(part).endswith(".tar") or Path(str(part), MANIFEST).is_file() for part in parts)


def expand(spec: Shards) -> list[str]:
    """The URLs or paths that are meant, each once, in order.

    Args:
        spec: a path or URL, with braces for many (`{000000..001281}.tar`, `{a,b}.tar`); a local folder (its `.tar`
            files) or glob; or a list of any of these. Besides files: `http(s)`, `gs`, `hf` and `pipe:` as webdataset
            reads them.

    Raises:
        InputError: nothing is meant, or a local file or folder that is not there.
    """
    found: dict[str, None] = {}
    for part in map(str, [spec] if isinstance(spec, (str, Path)) else spec):
        place = local_path(part)
        if place is not None and place.is_dir():
            hits = sorted(map(str, place.glob("*.tar")))
        elif place is not None and not place.exists() and glob.has_magic(part):
            hits = sorted(glob.glob(part))
        else:
            hits = expand_urls(part)
        if not hits:
            raise InputError(f"shards={part} holds no .tar; make some with python -m ltx.data.shards")
        found.update(dict.fromkeys(hits))
    for url in found:
        place = local_path(url)
        if place is not None and not place.is_file():
            raise InputError(f"shard {url} does not exist; check the numbers in the braces")
    if not found:
        raise InputError("shards is an empty list; give URLs or paths of .tar files")
    return list(found)


def local_path(url: str) -> Path | None:
    """Where a local shard lies; None for one that is not local."""
    if url.startswith("pipe:"):
        return None
    parsed = urlparse(url)
    if parsed.scheme == "file":
        return Path(url2pathname(parsed.path))
    return Path(url) if parsed.scheme == "" else None


def counted(urls: Sequence[str], manifest: str | Path | None = None) -> list[Shard]:
    """The shards that hold samples, with their counts: from a manifest, else, for local files, from their headers.

    Args:
        manifest: as `python -m ltx.data.shards` writes it; None = `manifest.json` beside the shards, if it is there.

    Raises:
        InputError: a manifest that lacks a shard, remote shards without a manifest, or not one sample.
    """
    places = {url: str(manifest) if manifest is not None else _beside(url) for url in urls}
    counts: dict[str, dict[str, int] | None] = {
        place: _read_manifest(place, required=manifest is not None) for place in set(places.values())
    }
    found: dict[str, int] = {}
    for url, place in places.items():
        known = counts[place]
        if known is not None and _base(url) in known:
            found[url] = known[_base(url)]
        elif known is not None:
            raise InputError(f"{place} does not list {_base(url)}; make it again with python -m ltx.data.shards")
        elif local_path(url) is None:
            raise InputError(
                f"shard {url}: no {place}, so its samples cannot be counted; "
                "python -m ltx.data.shards shards=… out=DIR counts them once, then give manifest=DIR/manifest.json"
            )
    missing = [url for url in urls if url not in found]
    with ThreadPoolExecutor(default_workers()) as pool:
        found |= dict(zip(missing, pool.map(count_samples, missing), strict=True))
    if not any(found.values()):
        raise InputError(f"shard {urls[0]} holds no sample" + (", nor do the others" if len(urls) > 1 else ""))
    return [Shard(url, found[url]) for url in urls if found[url]]


def count_samples(url: str) -> int:
    """How many samples a shard holds: of a local one its headers are read, of another the whole of it.

    Raises:
        InputError: it cannot be read to its end.
    """
    place = local_path(url)
    if place is None:
        return sum(1 for _ in read_shard(url))
    try:
        with tarfile.open(place) as archive:
            members = [member.name for member in archive if member.isreg() and not _is_meta(member.name)]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"shard {url} cannot be read: {error}") from error
    keys = [key for key in (split_member_name(name)[0] for name in members) if key is not None]
    return sum(key != before for key, before in zip(keys, [None, *keys], strict=False))


def read_shard(url: str) -> Iterator[Sample]:
    """The samples of a shard in order, as one sequential read.

    Raises:
        InputError: it cannot be read to its end; what came before it is whole.
    """
    try:
        for fields in tar_samples([{"url": url}]):
            suffix = next((name for name in fields if f".{name.rsplit('.', 1)[-1]}" in SUFFIXES), None)
            key = fields["__key__"]
            label = fields.get("cls")
            yield Sample(
                key=key,
                name=f"{url}/{key}.{suffix}" if suffix else f"{url}/{key}",
                image=fields[suffix] if suffix else b"",
                label=int(label) if label is not None and label.strip().lstrip(b"-").isdigit() else None,
            )
    except Exception as error:  # tar, pipes and connections each have their own
        raise InputError(f"shard {url} cannot be read: {' '.join(str(error).split())[:200]}") from error


def check_image(sample: Sample) -> None:
    """Raises InputError where the picture cannot be decoded; costs an eighth of its resolution."""
    with opened(sample.name, sample.image) as image:
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()


def _base(url: str) -> str:
    return url.rstrip("/").rsplit("/", 1)[-1]


def _beside(url: str) -> str:
    folder, slash, _ = url.rpartition("/")
    return f"{folder}{slash}{MANIFEST}"


def _is_meta(name: str) -> bool:
    return re.match(r"__[^/]*__($|/)", name) is not None


def _read_manifest(place: str, required: bool) -> dict[str, int] | None:
    path = local_path(place)
    try:
        if path is not None and not path.is_file() and not required:
            return None
        if place.startswith("pipe:"):
            return None
        with webdataset.gopen(place) as stream:
            content: Any = json.loads(stream.read())
        return {os.fspath(entry["name"]): int(entry["samples"]) for entry in content["shards"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if path is None and not required:
            return None
        raise InputError(f"manifest={place} cannot be read: {' '.join(str(error).split())[:200]}") from error
