"""Pictures of a report: drawn once from the arrays of each result, and stored in the folder `report`.

Each result has three: `thumbs/KEY.jpg`, the overlay for the grid; `views/KEY.jpg`, the image and the coloured map side
by side; `views/KEY.png`, masks as opacity, one below the other, the result's own and then those of each area. A page
opened from disk may draw pictures on top of each other but not read their pixels; with masks as opacity, drawing is
enough for every overlay.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import matplotlib as mpl
import numpy as np
from PIL import Image

from ltx.report.records import Result
from ltx.results.pictures import COLOURS, displayed, overlay
from ltx.runtime.array_files import read_arrays
from ltx.runtime.atomic_files import atomic_write, writing
from ltx.runtime.errors import InputError, first_line
from ltx.runtime.json_text import parse_json
from ltx.runtime.progress import progress_bar

FOLDER = "report"
MADE = "pictures.jsonl"
THUMB = 192
"""Longest side of a thumbnail in pixels."""


@dataclass(frozen=True)
class Pictures:
    """What is known about the pictures of one result.

    Attributes:
        key: see `Result.key`.
        source: size and modification time of the arrays; None = there are no arrays.
        height, width: of the image, in pixels.
        areas: areas of the masks after the first; empty if the method has no masks of a given area.
        kept: the class's probability under each of them.
    """

    key: str
    source: list[int] | None
    height: int = 0
    width: int = 0
    areas: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)


def make_pictures(folder: Path, results: Sequence[Result], workers: int | None = None) -> list[Pictures]:
    """Draw the pictures of every result that are missing or older than its arrays.

    An interrupted run keeps the pictures that it finished.

    Args:
        folder: folder of the results.
        workers: number of threads; None = one per core.
    """
    report = folder / FOLDER
    for name in ("thumbs", "views"):
        (report / name).mkdir(parents=True, exist_ok=True)
    known = _read_made(report / MADE)
    sources = [_source(folder / f"{result.stem}.npz") for result in results]
    missing = [
        (result, source)
        for result, source in zip(results, sources, strict=True)
        if source is not None and (result.key not in known or known[result.key].source != source)
    ]
    if missing:
        count = min(len(missing), workers or os.cpu_count() or 1)
        with (
            writing(report / MADE),
            (report / MADE).open("a", encoding="utf-8") as record,
            ThreadPoolExecutor(count) as pool,
            progress_bar("making thumbnails", shown=len(missing) > 100) as progress,
        ):
            bar = progress.add_task("", total=len(missing), rate="")
            try:
                for pictures in pool.map(lambda item: _make(folder, report, *item), missing):
                    known[pictures.key] = pictures
                    record.write(json.dumps(asdict(pictures)) + "\n")
                    progress.advance(bar)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [
        Pictures(result.key, None) if source is None else known[result.key]
        for result, source in zip(results, sources, strict=True)
    ]


def _source(file: Path) -> list[int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _read_made(file: Path) -> dict[str, Pictures]:
    """What was made by earlier reports; a line that a killed process cut short is made again."""
    made = {}
    if file.is_file():
        content = file.read_bytes()
        if content and not content.endswith(b"\n"):
            with file.open("ab") as record:
                record.write(b"\n")
        for line in content.decode(errors="replace").splitlines():
            try:
                pictures = Pictures(**parse_json(line))
                made[pictures.key] = pictures
            except (ValueError, TypeError):
                continue
    return made


def _make(folder: Path, report: Path, result: Result, source: list[int]) -> Pictures:
    file = folder / f"{result.stem}.npz"
    try:
        stored = read_arrays(file)
        image, values, mask = displayed(stored["image"]), stored["map"], stored.get("mask")
        areas, kept, masks = _sweep(folder / f"{result.stem}.areas.npz")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} cannot be read: {first_line(error)}; remove it and its line of the record") from error
    height, width = image.shape[:2]
    opacity = mask if mask is not None else stretched(values)
    layers = [_bytes(opacity), *(layer for layer in masks if layer.shape == (height, width))]
    if len(layers) != 1 + len(areas):
        areas, kept, layers = [], [], layers[:1]
    unit = mask is not None and values.min() >= 0 and values.max() <= 1
    map_ = mpl.colormaps[COLOURS](_bytes(values if unit else stretched(values)))[..., :3]
    thumb = Image.fromarray(overlay(image, opacity))
    thumb.thumbnail((THUMB, THUMB), Image.Resampling.BICUBIC)
    view = Image.fromarray(np.concatenate([image, (map_ * 255).round().astype(np.uint8)], 1))
    masks_strip = Image.fromarray(np.concatenate(layers, 0)).convert("P")
    masks_strip.putpalette([0] * 768)
    with atomic_write(report / "views" / f"{result.key}.jpg", flushed=False) as stream:
        _save(view, stream, format="JPEG", quality=92, subsampling=0)
    with atomic_write(report / "views" / f"{result.key}.png", flushed=False) as stream:
        _save(masks_strip, stream, format="PNG", transparency=bytes(range(256)), compress_level=6)
    with atomic_write(report / "thumbs" / f"{result.key}.jpg", flushed=False) as stream:
        _save(thumb, stream, format="JPEG", quality=80)
    return Pictures(result.key, source, height, width, areas, kept)


def _sweep(file: Path) -> tuple[list[float], list[float], np.ndarray]:
    """Areas, the class's probability kept, and masks `[A, H, W]`; empty where the method makes none."""
    if not file.is_file():
        return [], [], np.zeros((0, 1, 1), np.uint8)
    stored = read_arrays(file)
    areas, kept = ([round(float(value), 4) for value in stored[name]] for name in ("areas", "kept"))
    return areas, kept, stored["masks"]


def stretched(values: np.ndarray) -> np.ndarray:
    """A map stretched to [0, 1]; 1 everywhere for a constant map. Values that are not finite count as the lowest."""
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    if high <= low:
        return np.ones(values.shape, np.float32)
    return np.where(finite, (values - low) / (high - low), 0).astype(np.float32)


def _bytes(values: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (np.nan_to_num(values).clip(0, 1) * 255).round()
    return scaled.astype(np.uint8)


def _save(picture: Image.Image, stream: IO[bytes], **options: object) -> None:
    picture.save(stream, **options)  # type: ignore[arg-type]  # Pillow types the options of all formats as Any
