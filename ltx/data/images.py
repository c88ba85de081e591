"""Image files on disk: which ones are meant, and how each becomes RGB pixels."""

from __future__ import annotations

import csv
import glob
import importlib.util
import io
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from simplejpeg import decode_jpeg
from torch import Tensor

from ltx.errors import InputError

Spec = str | Path | Sequence[str | Path]
Fit = Literal["squash", "centre"]

SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"])
FILE_COLUMNS = ("file", "image", "path")
EXIF_ORIENTATION = 0x0112

# Photographs of scenes and things inside the scikit-image package, without its textures, drawings, microscopy, a
# blurred clock, and the right view of the stereo pair (all but a copy of the left one, which could be held out).
SCIKIT_IMAGE = [
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
]


# -- which files ---------------------------------------------------------------------------------------------------


def find_images(spec: Spec) -> list[Path]:
    """The image files that `spec` means, each once.

    Args:
        spec: a file; a folder (files of every depth, sorted, links followed, hidden ones left out); a glob (`**` goes
            any depth); a `.csv` listing, whose column `file`, `image` or `path` (else the first) holds paths relative
            to the CSV; the word `scikit-image` for the photographs in that package; or a list of any of these.

    Returns:
        Paths in the order of `spec`. Files that a listing names are not checked here: reading them may still fail.

    Raises:
        InputError: nothing is there, or no image in it.
    """
    parts = [spec] if isinstance(spec, (str, Path)) else list(spec)
    if not parts:
        raise InputError("images is an empty list; give a file, folder, glob, .csv listing or 'scikit-image'")
    found: dict[Path, None] = {}
    for part in parts:
        # One missing file among several is skipped when it is read, like any other that cannot be.
        named = len(parts) > 1 and Path(part).suffix.lower() in SUFFIXES and not _has_magic(str(part))
        found.update(dict.fromkeys([Path(part)] if named and not Path(part).is_dir() else _find(str(part))))
    return list(found)


def image_root(spec: Spec) -> Path:
    """The folder below which the images of `spec` keep their sub-folders: the deepest that holds them all."""
    roots = []
    for part in map(str, [spec] if isinstance(spec, (str, Path)) else spec):
        path = Path(part)
        if part == "scikit-image":
            path = _scikit_image_folder()
        elif not path.exists() and _has_magic(part):
            fixed = next(i for i, name in enumerate(path.parts) if _has_magic(name))
            path = Path(*path.parts[:fixed])
        elif not path.is_dir():
            path = path.parent
        roots.append(os.path.abspath(path))
    return Path(os.path.commonpath(roots))


def _find(spec: str) -> list[Path]:
    path = Path(spec)
    if spec == "scikit-image":
        folder = _scikit_image_folder()
        files = [folder / name for name in SCIKIT_IMAGE if (folder / name).is_file()]
    elif path.is_dir():
        files = _walk(path)
    elif path.is_file():
        files = _listed(path) if path.suffix.lower() == ".csv" else [path]
    elif _has_magic(spec):
        hits = sorted(map(Path, glob.glob(spec, recursive=True)))
        files = [file for hit in hits if hit.is_file() for file in [hit] if hit.suffix.lower() in SUFFIXES]
        files = files or [file for hit in hits if hit.is_dir() for file in _walk(hit)]
    else:
        raise InputError(f"images={spec} does not exist; give a file, folder, glob, .csv listing or 'scikit-image'")
    if not files:
        kinds = ", ".join(sorted(SUFFIXES))
        raise InputError(f"images={spec} holds no image; files are looked for by their suffix ({kinds})")
    return files


def _walk(folder: Path) -> list[Path]:
    files: list[Path] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(where, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(files)


def _scikit_image_folder() -> Path:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError("images=scikit-image needs the package scikit-image: pip install it")
    return Path(spec.origin).parent / "data"


def _has_magic(text: str) -> bool:
    return glob.has_magic(text)


# -- listings ------------------------------------------------------------------------------------------------------


def _listed(listing: Path) -> list[Path]:
    header, rows = _read_csv(listing)
    column = _file_column(header)
    return [listing.parent / row[column].strip() for row in rows if len(row) > column and row[column].strip()]


def read_labels(listing: str | Path) -> dict[Path, int]:
    """The column `class_index` of a `.csv` listing, by the paths that `find_images` gives for it.

    Raises:
        InputError: no such file or column, or an entry that is no whole number.
    """
    listing = Path(listing)
    if not listing.is_file():
        raise InputError(f"labels={listing} does not exist; give a .csv with the columns file and class_index")
    header, rows = _read_csv(listing)
    if "class_index" not in header:
        raise InputError(f"labels={listing} has no column class_index; its columns are {', '.join(header)}")
    name, index = _file_column(header), header.index("class_index")
    labels = {}
    for number, row in enumerate(rows, start=2):
        try:
            labels[listing.parent / row[name].strip()] = int(row[index])
        except (ValueError, IndexError) as error:
            raise InputError(f"labels={listing}, line {number}: class_index is no whole number") from error
    return labels


def _read_csv(listing: Path) -> tuple[list[str], list[list[str]]]:
    """Header (lower case; empty where the first row already is a file) and the other rows."""
    try:
        with listing.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"images={listing} is no CSV text: {error}") from error
    first = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not first or (os.path.splitext(first[0])[1] in SUFFIXES and not set(first) & set(FILE_COLUMNS)):
        return [], rows
    return first, rows[1:]


def _file_column(header: list[str]) -> int:
    return next((header.index(name) for name in FILE_COLUMNS if name in header), 0)


# -- pixels --------------------------------------------------------------------------------------------------------


def read_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """The picture as 8-bit RGB, turned upright by its EXIF orientation.

    Greyscale, palette, CMYK and 16-bit pictures are converted; transparent pixels are laid over white; of several
    frames the first is taken. For `content` see `opened`.

    Raises:
        InputError: the file is missing, empty, truncated or no image.
    """
    with opened(path, content) as image:
        return as_rgb(image)


@contextmanager
def opened(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """A picture whose header is read and whose pixels are not yet; what goes wrong inside becomes an `InputError`.

    Args:
        path: the file, or what names the picture in errors where `content` is given.
        content: the encoded picture, where it lies in no file of its own.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            yield image
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except UnidentifiedImageError as error:
        reason = "is not an image" if (os.path.getsize(path) if content is None else len(content)) else "is empty"
        raise InputError(f"{path} {reason}") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise InputError(f"{path} is too large: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise on damaged data
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read: {reason}") from error


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the picture once it stands upright."""
    width, height = image.size
    return (height, width) if image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)


def decoded(image: Image.Image) -> Tensor:
    """uint8 `[3, H, W]` of an opened picture, in memory pixel by pixel; the pixels of `as_rgb`.

    libjpeg-turbo alone decodes the plain case, an upright JPEG in colour, to the same bytes in two thirds of the time
    that Pillow and the copy out of it take; Pillow does all others, pictures at a reduced scale (`draft`) too.
    """
    plain = isinstance(image, JpegImageFile) and image.mode == "RGB" and image.decoderconfig == ()
    if plain and image.getexif().get(EXIF_ORIENTATION, 1) == 1:
        source = cast(IO[bytes], image.fp)  # type: ignore[attr-defined]
        source.seek(0)
        try:
            return torch.from_numpy(decode_jpeg(source.read())).permute(2, 0, 1)
        except ValueError:  # damaged: Pillow says why, or can read it all the same
            pass
    return torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1)


def as_rgb(image: Image.Image) -> Image.Image:
    """The decoded, upright picture in mode RGB; see `read_image`."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Pillow's own conversion cuts every value above 255; 16-bit pictures use 0…65535, float ones mostly 0…1."""
    values = np.asarray(image).astype(np.float64)
    top = values.max(initial=0.0)
    largest = 1.0 if top <= 1 and image.mode == "F" else 255.0 if top <= 255 and image.mode in "IF" else 65535.0
    return Image.fromarray((values / largest * 255).round().clip(0, 255).astype(np.uint8))


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 `[3, H, W]` of an RGB picture."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def resize(image: Image.Image, size: int | tuple[int, int], mode: Fit = "squash") -> Tensor:
    """uint8 `[3, H, W]` at `size` (side, or height and width), bicubic with antialiasing.

    Args:
        mode: `squash` = the whole picture, its aspect ratio changed; `centre` = the largest centred part with the
            aspect ratio of `size`.

    Raises:
        InputError: another mode.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if mode not in ("squash", "centre"):
        raise InputError(f"resize mode {mode!r} is unknown; allowed: squash, centre")
    box = (0.0, 0.0, float(image.width), float(image.height))
    if mode == "centre":
        scale = min(image.width / width, image.height / height)
        left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
        box = (left, top, left + scale * width, top + scale * height)
    return to_tensor(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def load_images(paths: Sequence[str | Path], size: int | tuple[int, int], mode: Fit = "squash") -> Tensor:
    """Float32 `[B, 3, H, W]` in [0, 1], all in memory; for streams use `ImageBatches`.

    Raises:
        InputError: one of them cannot be read.
    """
    return torch.stack([resize(read_image(path), size, mode) for path in paths]).float().div_(255)


# -- many files ----------------------------------------------------------------------------------------------------


@dataclass
class Skipped:
    """The files that could not be read, each with its reason."""

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
    """Batches of many files in constant memory: threads read ahead by one batch, bad files are skipped.

    Iterating gives `(paths, images)`: `images` float32 `[B, 3, H, W]` in [0, 1], in the order of the files; every
    batch but the last is full. `skipped` tells what was left out so far.

    Args:
        paths: files, as `find_images` gives them.
        size: side, or height and width.
        mode: see `resize`.
        workers: reading threads; None = one a core, 8 at most.

    Raises:
        InputError: while iterating, at the end, if not one file could be read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int | tuple[int, int],
        batch_size: int,
        mode: Fit = "squash",
        workers: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; give 1 or more")
        self.paths = list(paths)
        self.size = size
        self.batch_size = batch_size
        self.mode: Fit = mode
        self.workers = workers or default_workers()
        self.skipped = Skipped()

    def __iter__(self) -> Iterator[tuple[list[Path], Tensor]]:
        self.skipped = Skipped()
        names: list[Path] = []
        pixels: list[Tensor] = []
        for path, image in self._read():
            names.append(path)
            pixels.append(image)
            if len(names) == self.batch_size:
                yield names, torch.stack(pixels).float().div_(255)
                names, pixels = [], []
        if names:
            yield names, torch.stack(pixels).float().div_(255)
        if self.paths and len(self.skipped) == len(self.paths):
            raise InputError(f"none of the {len(self.paths)} images can be read; {self.skipped.summary(3)}")

    def _read(self) -> Iterator[tuple[Path, Tensor]]:
        pool = ThreadPoolExecutor(self.workers)
        waiting: deque[tuple[Path, Future[Tensor]]] = deque()
        remaining = iter(self.paths)
        try:
            while True:
                while len(waiting) < self.batch_size + self.workers and (path := next(remaining, None)) is not None:
                    waiting.append((path, pool.submit(lambda p: resize(read_image(p), self.size, self.mode), path)))
                if not waiting:
                    return
                path, future = waiting.popleft()
                try:
                    yield path, future.result()
                except InputError as error:
                    self.skipped.files.append((path, str(error)))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def default_workers() -> int:
    """One a core that this process may use, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)
