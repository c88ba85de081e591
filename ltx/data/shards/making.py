"""Packing of image files into shards: in parallel and resumable."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import webdataset
from PIL import Image
from rich.console import Console
from rich.progress import track

from ltx.data.finding import image_root, search_images
from ltx.data.image_batches import default_workers
from ltx.data.listings import labels_of
from ltx.data.reading import as_rgb, file_state, opened
from ltx.data.shards.listing import MANIFEST, search_shards
from ltx.data.shards.settings import MakeConfig
from ltx.data.shards.tar_reading import Sample, check_image, inspect_shard, local_path
from ltx.runtime.atomic_files import PARTIAL, atomic_write, write_atomically
from ltx.runtime.errors import InputError, first_line
from ltx.runtime.file_names import free_name, result_stems
from ltx.runtime.json_text import parse_json

PLAN = "making.json"
MAX_JPEG = 65500
"""Largest width and height that libjpeg writes."""

Entry = tuple[str, Path, int | None]  # key, file, class index


@dataclass(frozen=True)
class Packed:
    """The result of packing or counting.

    Attributes:
        manifest: path of the manifest.
        failed: entries of the settings that could not be used, or not to their end, each with the reason.
    """

    manifest: Path
    failed: list[tuple[str, str]]


def make(config: MakeConfig) -> Path:
    """Pack files into shards or count shards, see `pack`; returns the path of the manifest."""
    return pack(config).manifest


def pack(config: MakeConfig) -> Packed:
    """Write `OUT/000000.tar`, …, and last `OUT/manifest.json` with their counts and the files left out.

    Each shard is written under a temporary name and renamed. The same command skips shards that exist.

    Raises:
        InputError: neither or both of `images` and `shards`, shards of other settings in `out`, or no readable image.
    """
    if (config.images is None) == (config.shards is None):
        number = "neither" if config.images is None else "both"
        raise InputError(f"give either images=… to pack or shards=… to count, not {number}")
    out = Path(config.out)
    if config.shards is not None:
        urls, failed = search_shards(config.shards)
        out.mkdir(parents=True, exist_ok=True)
        return _count(urls, out, config.workers, failed, [])
    found = search_images(config.images, out)
    labels = _labels(found.files, config.labels) if config.labels is not None else [None] * len(found.files)
    entries = list(zip(_keys(found.files, image_root(config.images)), found.files, labels, strict=True))
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
    with ThreadPoolExecutor(config.workers or default_workers()) as pool:
        written = pool.map(lambda job: _write(job[0], job[1], config.side, config.quality), missing)
        for _ in track(written, "writing shards", len(missing), console=Console(stderr=True)):
            pass
    skipped = [entry for place in places for entry in _skipped(place)]
    for _, reason in skipped[:10]:
        print(f"skipped: {reason}")
    if skipped:
        print(f"skipped {len(skipped)} files")
    if found.summary():
        print(found.summary())
    failed = found.failed + [entry for entry in skipped if Path(entry[0]) in found.named]
    return _count([str(place) for place in places], out, config.workers, failed, skipped)


def _labels(files: list[Path], listing: str) -> list[int | None]:
    """The class index of each file, None if the listing has none; prints how many have none."""
    labels = labels_of(files, [Path(listing)])
    without = labels.count(None)
    if without:
        print(f"{without} of {len(files)} images have no label in {listing}")
    return labels


def _write(place: Path, entries: list[Entry], side: int | None, quality: int) -> None:
    """Write one shard, and before it the list of the files left out; runs in a thread."""
    skipped = []
    with (
        atomic_write(place) as stream,
        webdataset.TarWriter(stream, encoder=False, mtime=0, format="PAX_FORMAT") as archive,
    ):
        for key, file, label in entries:
            try:
                suffix, image = _encoded(file, side, quality)
            except InputError as error:
                skipped.append((str(file), str(error)))
                continue
            fields: dict[str, Any] = {"__key__": key, suffix: image}
            archive.write(fields if label is None else fields | {"cls": str(label).encode()})
        # Before the shard gets its name, so that a resumed run can still name these files.
        if skipped:
            write_atomically(_skipped_file(place), json.dumps(skipped).encode())


def _skipped_file(shard: Path) -> Path:
    return shard.with_name(f".{shard.stem}.skipped.json")


def _skipped(shard: Path) -> list[tuple[str, str]]:
    """The files left out of a shard, each with the reason."""
    file = _skipped_file(shard)
    try:
        return [(name, reason) for name, reason in parse_json(file.read_text("utf-8"))] if file.is_file() else []
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged ({first_line(error)}); remove it and {shard}, and run again") from error


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
    scale = min(1, side / min(image.size))
    shape = round(scale * image.width), round(scale * image.height)
    if max(shape) > MAX_JPEG:
        raise InputError(f"{file} would have {shape[0]}x{shape[1]} pixels; a JPEG has at most {MAX_JPEG} on a side")
    if scale < 1:
        image = image.resize(shape, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=quality)
    return "jpg", stream.getvalue()


def _keys(files: list[Path], root: Path) -> list[str]:
    """Paths below the images' folder, without suffix or dots: webdataset ends a key at the first dot."""
    stems = result_stems([str(file) for file in files], root)
    plain = ["/".join(part.replace(".", "_") for part in stem.split("/")) for stem in stems]
    taken: dict[str, None] = {}
    for key in plain:
        taken[free_name(key, taken.__contains__)] = None
    return list(taken)


def _claim(out: Path, config: MakeConfig, entries: list[Entry]) -> None:
    """Write the settings of the shards to `out`, or check that they equal those written there."""
    lines = "\n".join(f"{key}|{os.path.abspath(file)}|{file_state(file)}|{label}" for key, file, label in entries)
    digest = hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
    settings = {name: asdict(config)[name] for name in ("per_shard", "side", "quality", "seed")} | {"files": digest}
    place = out / PLAN
    try:
        previous = parse_json(place.read_text("utf-8")) if place.is_file() else None
    except ValueError as error:
        raise InputError(f"{place} cannot be read; choose another out=…, or remove the folder") from error
    if previous is not None and previous != settings:
        raise InputError(f"out={out} contains shards of other images or settings; choose another out=…")
    if previous is None and any(out.glob("*.tar")):
        raise InputError(f"out={out} contains shards of unknown settings; choose another out=…")
    write_atomically(place, json.dumps(settings).encode())


def _count(
    urls: list[str], out: Path, workers: int | None, failed: list[tuple[str, str]], skipped: list[tuple[str, str]]
) -> Packed:
    with ThreadPoolExecutor(workers or default_workers()) as pool:
        counted = pool.map(inspect_shard, urls)
        contents = list(track(counted, "counting", len(urls), console=Console(stderr=True)))
    total = sum(content.samples for content in contents)
    if not total:
        reasons = [content.damage for content in contents if content.damage] + [reason for _, reason in skipped]
        reason = f"; {reasons[0]}" if reasons else f"; {urls[0]} contains no image"
        raise InputError(f"none of the images for {len(urls)} shard(s) can be read{reason}")
    shards: list[dict[str, Any]] = []
    for url, content in zip(urls, contents, strict=True):
        place = local_path(url)
        size = place.stat().st_size if place is not None else None
        shards.append({"name": url.rsplit("/", 1)[-1], "samples": content.samples, "bytes": size})
        if content.damage:
            shards[-1]["damage"] = content.damage
            failed = [*failed, (url, content.damage)]
        for _, reason in content.left_out:
            print(reason)
    written: dict[str, Any] = {"samples": total, "shards": shards}
    if skipped:
        written["skipped"] = [{"file": name, "reason": reason} for name, reason in skipped]
    manifest = out / MANIFEST
    write_atomically(manifest, json.dumps(written, indent=1).encode())
    print(f"{total} images in {len(urls)} shards; {manifest}")
    return Packed(manifest, failed)
