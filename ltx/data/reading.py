"""Reading of image files as RGB pixels."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Literal, cast

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from simplejpeg import decode_jpeg
from torch import Tensor

from ltx.data.arrays import BandImage, array_image, tiff_bands
from ltx.data.formats import ARRAY_SUFFIX
from ltx.runtime.errors import InputError

Fit = Literal["squash", "centre"]

DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, OverflowError, struct.error),
    TokenError,
)
"""Exceptions that Pillow's decoders and NumPy's header reader raise on damaged data."""

MAX_FILE_BYTES = 1 << 30
"""Larger files are not read into memory."""

PILLOW_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's mode of images with so many channels."""

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
def opened(path: str | Path, content: bytes | None = None, channels: int = 3) -> Iterator[Image.Image]:
    """Open an image without decoding its pixels; errors inside the context become an `InputError`.

    Args:
        path: the file, or a name for error messages if `content` is given.
        content: the encoded image; None = read the file.
        channels: channels that the pixels will be converted to. Pillow reads up to four; more come from arrays and
            from TIFF files with several bands, as a `BandImage`.

    Raises:
        InputError: the file is missing, empty, truncated, too large or not an image.
    """
    try:
        if content is None and stat.S_ISFIFO(os.stat(path).st_mode):
            raise InputError(f"{path} is a pipe, not an image")  # reading it could block
        suffix = os.path.splitext(str(path))[1].lower()
        bands = suffix in (".tif", ".tiff") and channels not in PILLOW_MODES
        if suffix == ARRAY_SUFFIX or bands:
            encoded = Path(path).read_bytes() if content is None else content
            yield (tiff_bands if bands else array_image)(encoded)
            return
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


@dataclass(frozen=True)
class Fingerprint:
    """The identity of an image: its absolute path and its content.

    Attributes:
        path: absolute path, or URL; of a sample: the shard's, followed by the member's name.
        sha256: hash of the encoded image.
        bytes: size of the encoded image.
        modified_ns: modification time of the file in nanoseconds; None for a sample of a shard.
    """

    path: str
    sha256: str
    bytes: int
    modified_ns: int | None = None


def file_state(file: str | Path) -> str:
    """Size and modification time of a file, which change when it is replaced."""
    try:
        about = os.stat(file)
    except (OSError, ValueError):
        return "missing"
    return f"{about.st_size} {about.st_mtime_ns}"


def read_content(path: str | Path) -> tuple[bytes, Fingerprint]:
    """Read an encoded image, and identify it by what was read.

    Raises:
        InputError: the file is missing, a pipe, too large or not readable.
    """
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise InputError(f"{path} is a pipe, not an image")  # reading it could block
        with Path(path).open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_size > MAX_FILE_BYTES:
                raise InputError(f"{path} is too large: {about.st_size} bytes, more than {MAX_FILE_BYTES}")
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{path} cannot be read: {reason}") from error
    digest = hashlib.sha256(content).hexdigest()
    return content, Fingerprint(os.path.abspath(path), digest, len(content), about.st_mtime_ns)


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


def decoded(image: Image.Image, channels: int = 3) -> Tensor:
    """Decode an opened image to uint8 `[C, H, W]`, in channels-last memory; the pixels equal those of `as_rgb`.

    An image with another number of channels is converted if Pillow has a conversion: grey, grey and alpha, RGB, RGBA.

    The usual case, an upright JPEG in colour, is decoded by libjpeg-turbo directly: the same bytes in two thirds of
    the time of Pillow and the copy out of it. Pillow decodes everything else, including images at a reduced scale
    (`draft`).
    """
    if channels != 3:
        return torch.from_numpy(as_channels(image, channels)).permute(2, 0, 1)
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


def as_channels(image: Image.Image, channels: int) -> np.ndarray:
    """Decode an opened image, turn it upright and convert it to uint8 `[H, W, C]`.

    Raises:
        ValueError: it has another number of channels, and there is no conversion.
    """
    if isinstance(image, BandImage):
        if image.bands.shape[2] != channels:
            raise ValueError(f"it has {image.bands.shape[2]} channels; the classifier takes {channels}")
        return image.bands
    if channels not in PILLOW_MODES:
        raise ValueError(f"it has {len(image.getbands())} channels; the classifier takes {channels}")
    if channels == 4 or channels == 2:
        image.load()
        orientation = _orientation(image)
        image = image if orientation == 1 else image.transpose(UPRIGHT[orientation])
        eight_bit = _to_8_bit(image) if image.mode in ("I", "F") or image.mode.startswith("I;16") else image
        converted = eight_bit.convert("RGBA").convert(PILLOW_MODES[channels])
    else:
        converted = as_rgb(image).convert(PILLOW_MODES[channels])
    return np.array(converted).reshape(converted.height, converted.width, channels)


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
    """Convert an RGB image to uint8 `[3, H, W]`, a grey one to `[1, H, W]`."""
    return torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1).contiguous()


def resize(image: Image.Image, size: int | tuple[int, int], mode: Fit = "squash") -> Tensor:
    """Resize an image, bicubic with antialiasing.

    Args:
        image: the image, in mode RGB or L.
        size: side, or height and width.
        mode: `squash` = the full image, its aspect ratio changed; `centre` = the largest centred crop with the aspect
            ratio of `size`.

    Returns:
        uint8 `[3, H, W]`; `[1, H, W]` for a grey image.

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


def read_resized(
    path: str | Path,
    size: int | tuple[int, int],
    mode: Fit = "squash",
    channels: int = 3,
    content: bytes | None = None,
) -> Tensor:
    """Read an image and resize it.

    Args:
        path: the file, or a name for error messages if `content` is given.
        size: side, or height and width.
        mode: see `resize`.
        channels: channels of the result, see `decoded`.
        content: the encoded image; None = read the file.

    Returns:
        uint8 `[C, H, W]`.

    Raises:
        InputError: the file cannot be read, or has another number of channels.
    """
    if channels == 3:
        return resize(read_image(path, content), size, mode)
    with opened(path, content, channels) as image:
        planes = as_channels(image, channels)
    # Plane by plane: Pillow would weight colours by their alpha.
    return torch.cat([resize(Image.fromarray(planes[..., c]), size, mode) for c in range(channels)])


def load_images(
    paths: Iterable[str | Path] | str | Path, size: int | tuple[int, int], mode: Fit = "squash", channels: int = 3
) -> Tensor:
    """Read images into memory, float32 `[B, C, H, W]` in [0, 1]; for streams use `ImageBatches`.

    Args:
        paths: one file or several.
        size: side, or height and width.
        mode: see `resize`.
        channels: see `decoded`.

    Raises:
        InputError: an image cannot be read, or the list is empty.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not files:
        raise InputError("the list of image files is empty")
    return torch.stack([read_resized(file, size, mode, channels) for file in files]).float().div_(255)
