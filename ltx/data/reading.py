"""Reading of image files as RGB pixels, one by one or in batches."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Literal, TypeVar, cast

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from simplejpeg import decode_jpeg
from torch import Tensor

from ltx.runtime.errors import InputError

Fit = Literal["squash", "centre"]
Source = TypeVar("Source")

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, OverflowError, struct.error)
"""Exceptions that Pillow's decoders raise on damaged data."""

EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image of each EXIF orientation upright (EXIF 2.3, tag 274)."""


def read_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """Read an image as 8-bit RGB, turned upright by its EXIF orientation.

    Greyscale, palette, CMYK and 16-bit images are converted. Transparent pixels are blended with white. Of several
    frames the first is used.

    Args:
        path: the file, or a name for error messages if `content` is given.
        content: the encoded image; None = read the file.

    Raises:
        InputError: the file is missing, empty, truncated or not an image.
    """
    with opened(path, content) as image:
        return as_rgb(image)


@contextmanager
def opened(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image without decoding its pixels; errors inside the context become an `InputError`.

    Args:
        path: the file, or a name for error messages if `content` is given.
        content: the encoded image; None = read the file.

    Raises:
        InputError: the file is missing, empty, truncated, too large or not an image.
    """
    try:
        if content is None and stat.S_ISFIFO(os.stat(path).st_mode):
            raise InputError(f"{path} is a pipe, not an image")  # reading it could block
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            yield image
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except UnidentifiedImageError as error:
        reason = "is not an image" if (os.path.getsize(path) if content is None else len(content)) else "is empty"
        raise InputError(f"{path} {reason}") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise InputError(f"{path} is too large: {error}") from error
    except DAMAGED as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read: {reason}") from error


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the upright image."""
    width, height = image.size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) if it is missing or unreadable."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except DAMAGED:
        return 1
    return orientation if orientation in UPRIGHT else 1


def decoded(image: Image.Image) -> Tensor:
    """Decode an opened image to uint8 `[3, H, W]`, in channels-last memory; the pixels equal those of `as_rgb`.

    The usual case, an upright JPEG in colour, is decoded by libjpeg-turbo directly: the same bytes in two thirds of
    the time of Pillow and the copy out of it. Pillow decodes everything else, including images at a reduced scale
    (`draft`).
    """
    plain = isinstance(image, JpegImageFile) and image.mode == "RGB" and image.decoderconfig == ()
    if plain and _orientation(image) == 1:
        source = cast(IO[bytes], image.fp)  # type: ignore[attr-defined]
        source.seek(0)
        try:
            return torch.from_numpy(decode_jpeg(source.read())).permute(2, 0, 1)
        except ValueError:  # damaged: Pillow gives the reason, or can read it anyway
            pass
    return torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1)


def as_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image, turn it upright and convert it to mode RGB; see `read_image`."""
    image.load()
    orientation = _orientation(image)
    if orientation != 1:  # `ImageOps.exif_transpose` would re-encode all EXIF data and fail on damaged data
        image = image.transpose(UPRIGHT[orientation])
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale to 0…255: Pillow's conversion would clip at 255, 16-bit images use 0…65535, float ones mostly 0…1."""
    values = np.asarray(image).astype(np.float64)
    if np.isnan(values).any():
        raise ValueError("some of its pixels are not a number")
    top = values.max(initial=0.0)
    # Resampling leaves a float image of 0…1 slightly above 1.
    largest = 1.0 if top <= 2 and image.mode == "F" else 255.0 if top <= 255 and image.mode in "IF" else 65535.0
    return Image.fromarray((values / largest * 255).round().clip(0, 255).astype(np.uint8))


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to uint8 `[3, H, W]`."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def resize(image: Image.Image, size: int | tuple[int, int], mode: Fit = "squash") -> Tensor:
    """Resize an image, bicubic with antialiasing.

    Args:
        image: the image, in mode RGB.
        size: side, or height and width.
        mode: `squash` = the full image, its aspect ratio changed; `centre` = the largest centred crop with the aspect
            ratio of `size`.

    Returns:
        uint8 `[3, H, W]`.

    Raises:
        InputError: an unknown mode.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if mode not in ("squash", "centre"):
        raise InputError(f"resize mode {mode!r} is unknown; allowed: squash, centre")
    box = (0.0, 0.0, float(image.width), float(image.height))
    if mode == "centre":
        scale = min(image.width / width, image.height / height)
        # Rounding may put the box slightly outside the image, which Pillow refuses.
        box_width, box_height = min(image.width, scale * width), min(image.height, scale * height)
        left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
        box = (left, top, min(image.width, left + box_width), min(image.height, top + box_height))
    return to_tensor(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def load_images(paths: Iterable[str | Path] | str | Path, size: int | tuple[int, int], mode: Fit = "squash") -> Tensor:
    """Read images into memory, float32 `[B, 3, H, W]` in [0, 1]; for streams use `ImageBatches`.

    Args:
        paths: one file or several.
        size: side, or height and width.
        mode: see `resize`.

    Raises:
        InputError: an image cannot be read, or the list is empty.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not files:
        raise InputError("the list of image files is empty")
    return torch.stack([resize(read_image(file), size, mode) for file in files]).float().div_(255)


# -- many files ----------------------------------------------------------------------------------------------------


@dataclass
class Skipped:
    """Files that could not be read, each with the reason."""

    files: list[tuple[Path, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def summary(self, limit: int = 10) -> str:
        """`skipped 2 files: a.png is empty; b.png does not exist`, or an empty string for none."""
        if not self.files:
            return ""
        reasons = [reason for _, reason in self.files[:limit]]
        more = [f"and {len(self) - limit} more"] if len(self) > limit else []
        return f"skipped {len(self)} file{'s' * (len(self) > 1)}: {'; '.join(reasons + more)}"


class ImageBatches:
    """Batches of many files in constant memory: threads read ahead by one batch, unreadable files are skipped.

    Iterating yields `(paths, images)` with `images` float32 `[B, 3, H, W]` in [0, 1], in the order of the files. Every
    batch but the last is full. `skipped` lists the files skipped so far.

    Args:
        paths: files, as returned by `find_images`.
        size: side, or height and width.
        batch_size: images per batch.
        mode: see `resize`.
        workers: reading threads; None = one per core, at most 8.
        all_may_fail: accept that no file can be read, because others were read before or are read elsewhere.

    Raises:
        InputError: at the end of the iteration, if no file could be read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int | tuple[int, int],
        batch_size: int,
        mode: Fit = "squash",
        workers: int | None = None,
        all_may_fail: bool = False,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; give 1 or more")
        self.paths = list(paths)
        self.size = size
        self.batch_size = batch_size
        self.mode: Fit = mode
        self.workers = workers or default_workers()
        self.all_may_fail = all_may_fail
        self.skipped = Skipped()

    def __iter__(self) -> Iterator[tuple[list[Path], Tensor]]:
        self.skipped = Skipped()
        yield from decoded_batches(
            self.paths,
            lambda path: resize(read_image(path), self.size, self.mode),
            self.batch_size,
            self.workers,
            lambda path, reason: self.skipped.files.append((path, reason)),
        )
        if self.paths and len(self.skipped) == len(self.paths) and not self.all_may_fail:
            raise InputError(f"none of the {len(self.paths)} images can be read; {self.skipped.summary(3)}")


def decoded_batches(
    sources: Iterable[Source],
    decode: Callable[[Source], Tensor],
    batch_size: int,
    workers: int,
    refused: Callable[[Source, str], None],
) -> Iterator[tuple[list[Source], Tensor]]:
    """Decode sources in batches, in order.

    Threads decode ahead by one batch, so memory does not grow with the number of sources.

    Args:
        sources: files or samples.
        decode: returns the pixels of a source, uint8 `[3, H, W]`; called from several threads.
        batch_size: sources per batch.
        workers: decoding threads.
        refused: called with each source for which `decode` raises an `InputError`, and the reason; it is left out.

    Yields:
        The sources and their pixels, float32 `[B, 3, H, W]` in [0, 1]; every batch but the last is full.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[Source, Future[Tensor]]] = deque()
    remaining = iter(sources)
    batch: list[tuple[Source, Tensor]] = []
    try:
        while True:
            for source in islice(remaining, batch_size + workers - len(waiting)):
                waiting.append((source, pool.submit(decode, source)))
            if waiting:
                source, future = waiting.popleft()
                try:
                    batch.append((source, future.result()))
                except InputError as error:
                    refused(source, str(error))
            if len(batch) == batch_size or (batch and not waiting):
                yield [source for source, _ in batch], torch.stack([pixels for _, pixels in batch]).float().div_(255)
                batch = []
            if not waiting:
                return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def default_workers() -> int:
    """One worker per core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)
