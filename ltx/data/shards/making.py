"""Packing of image files into shards: in parallel and resumable."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import webdataset
from PIL import Image
from rich.console import Console
from rich.progress import track

from ltx.data.finding import find_images, image_root, read_labels
from ltx.data.reading import as_rgb, default_workers, opened
from ltx.data.shards.listing import MANIFEST, Sample, check_image, count_samples, expand, local_path
from ltx.data.shards.settings import MakeConfig
from ltx.runtime.atomic_files import PARTIAL, atomic_write, write_atomically
from ltx.runtime.errors import InputError
from ltx.runtime.file_names import result_stems

PLAN = "making.json"


def make(config: MakeConfig) -> Path:
    """Write `OUT/000000.tar`, …, and last `OUT/manifest.json` with their counts.

    Each shard is written under a temporary name and renamed. The same command skips shards that exist.

    Returns:
        Path of the manifest.

    Raises:
        InputError: neither or both of `images` and `shards`, shards of other settings in `out`, or no readable image.
    """
    if (config.images is None) == (config.shards is None):
        number = "neither" if config.images is None else "both"
        raise InputError(f"give either images=… to pack or shards=… to count, not {number}")
    out = Path(config.out)
    if config.shards is not None:
        out.mkdir(parents=True, exist_ok=True)
        return _count(expand(config.shards), out, config.workers)
    files = find_images(config.images)
    labels = read_labels(config.labels) if config.labels is not None else {}
    entries = list(
        zip(_keys(files, image_root(config.images)), files, [labels.get(file) for file in files], strict=True)
    )
    random.Random(config.seed).shuffle(entries)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config, entries)
    for part in out.glob(f".*{PARTIAL}"):  # a shard left incomplete by a killed process
        part.unlink()
    chunks = [entries[start : start + config.per_shard] for start in range(0, len(entries), config.per_shard)]
    digits = max(6, len(str(len(chunks) - 1)))
    places = [out / f"{number:0{digits}d}.tar" for number in range(len(chunks))]
    missing = [(place, chunk) for place, chunk in zip(places, chunks, strict=True) if not place.is_file()]
    if len(missing) < len(places):
        print(f"{len(places) - len(missing)} of {len(places)} shards already exist in {out}")
    skipped: list[str] = []
    with ThreadPoolExecutor(config.workers or default_workers()) as pool:
        written = pool.map(lambda job: _write(job[0], job[1], config.side, config.quality), missing)
        for bad in track(written, "writing shards", len(missing), console=Console(stderr=True)):
            skipped += bad
    for reason in skipped[:10]:
        print(f"skipped: {reason}")
    if skipped:
        print(f"skipped {len(skipped)} files")
    return _count([str(place) for place in places], out, config.workers)


def _write(place: Path, entries: list[tuple[str, Path, int | None]], side: int | None, quality: int) -> list[str]:
    """Write one shard, and return the reasons why images were left out; runs in a thread."""
    skipped = []
    with (
        atomic_write(place) as stream,
        webdataset.TarWriter(stream, encoder=False, mtime=0, format="PAX_FORMAT") as archive,
    ):
        for key, file, label in entries:
            try:
                suffix, image = _encoded(file, side, quality)
            except InputError as error:
                skipped.append(str(error))
                continue
            fields: dict[str, Any] = {"__key__": key, suffix: image}
            archive.write(fields if label is None else fields | {"cls": str(label).encode()})
    return skipped


def _encoded(file: Path, side: int | None, quality: int) -> tuple[str, bytes]:
    """Suffix and bytes of an image that can be decoded."""
    if side is None:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error}") from error
        suffix = file.suffix.lower().lstrip(".")
        check_image(Sample(file.stem, str(file), content, None))
        return suffix, content
    with opened(file) as source:
        shrink = max(1, min(source.size) // side)
        source.draft(None, (source.width // shrink, source.height // shrink))
        image = as_rgb(source)
    scale = side / min(image.size)
    if scale < 1:
        shape = round(scale * image.width), round(scale * image.height)
        image = image.resize(shape, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=quality)
    return "jpg", stream.getvalue()


def _keys(files: list[Path], root: Path) -> list[str]:
    """Paths below the images' folder, without suffix or dots: webdataset ends a key at the first dot."""
    stems = result_stems([str(file) for file in files], root)
    plain = ["/".join(part.replace(".", "_") for part in stem.split("/")) for stem in stems]
    seen = Counter(plain)
    return [key if seen[key] == 1 else f"{key}_{number}" for number, key in enumerate(plain)]


def _claim(out: Path, config: MakeConfig, entries: list[tuple[str, Path, int | None]]) -> None:
    """Write the settings of the shards to `out`, or check that they equal those written there."""
    lines = "\n".join(f"{key}|{file}|{label}" for key, file, label in entries)
    digest = hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
    settings = {name: asdict(config)[name] for name in ("per_shard", "side", "quality", "seed")} | {"files": digest}
    place = out / PLAN
    if place.is_file() and json.loads(place.read_text()) != settings:
        raise InputError(f"out={out} contains shards of other images or settings; choose another out=…")
    if not place.is_file() and any(out.glob("*.tar")):
        raise InputError(f"out={out} contains shards of unknown settings; choose another out=…")
    write_atomically(place, json.dumps(settings).encode())


def _count(urls: list[str], out: Path, workers: int | None) -> Path:
    with ThreadPoolExecutor(workers or default_workers()) as pool:
        counts = list(track(pool.map(count_samples, urls), "counting", len(urls), console=Console(stderr=True)))
    if not any(counts):
        raise InputError(f"none of the images for {len(urls)} shard(s) can be read")
    shards = []
    for url, samples in zip(urls, counts, strict=True):
        place = local_path(url)
        size = place.stat().st_size if place is not None else None
        shards.append({"name": url.rsplit("/", 1)[-1], "samples": samples, "bytes": size})
    manifest = out / MANIFEST
    write_atomically(manifest, json.dumps({"samples": sum(counts), "shards": shards}, indent=1).encode())
    print(f"{sum(counts)} images in {len(urls)} shards; {manifest}")
    return manifest
