"""Images in `.npy` files and in TIFF files with several bands."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

MAX_PIXELS = 1 << 28
"""Larger arrays are refused, as Pillow refuses larger pictures."""


class BandImage(Image.Image):
    """An image with more bands than Pillow supports, or two.

    Attributes:
        bands: uint8 `[H, W, C]`.
    """

    def __init__(self, bands: np.ndarray) -> None:
        super().__init__()
        self.bands = bands
        self._size = (bands.shape[1], bands.shape[0])

    def load(self) -> None:
        """Refuse conversions by Pillow."""
        raise ValueError(f"it has {self.bands.shape[2]} channels; the classifier takes 3")


def array_image(content: bytes) -> Image.Image:
    """Convert an encoded array to an image.

    Args:
        content: a `.npy` file with `[H, W]` or `[H, W, C]`; see `array_planes` for the values.

    Raises:
        ValueError: another format, shape or type.
    """
    planes = array_planes(content)
    if planes.shape[2] == 1:
        return Image.fromarray(planes[..., 0])
    return Image.fromarray(planes) if planes.shape[2] in (3, 4) else BandImage(planes)


def tiff_bands(content: bytes) -> BandImage:
    """Decode a TIFF file with any number of bands, or with one band per page.

    Args:
        content: uint8, uint16, or floats in [0, 1].

    Raises:
        ValueError: another format, shape, type or range.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        series = file.series[0]
        shape, axes = series.shape, series.axes
        count = int(np.prod(shape, dtype=object))
        if len(shape) not in (2, 3) or count > MAX_PIXELS:
            raise ValueError(f"a TIFF of shape {shape}; an image is [H, W], [H, W, C] or [C, H, W]")
        values = series.asarray()
    if values.ndim == 3 and axes[0] not in "YX":
        values = np.moveaxis(values, 0, -1)
    return BandImage(_to_8_bit(np.atleast_3d(values)))


def array_planes(content: bytes) -> np.ndarray:
    """Decode a `.npy` file to uint8 `[H, W, C]`.

    Args:
        content: an array `[H, W]` or `[H, W, C]`: uint8, bool, uint16 (0…65535), or floats in [0, 1]. Pickled objects
            are refused.

    Raises:
        ValueError: another format, shape, type or range.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"version {version} of the array format is not supported")
    shape, _, kind = read_header[version](stream)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"an array of shape {shape}; an image is [H, W] or [H, W, C]")
    # Before anything is allocated for the shape that the header claims.
    count = int(np.prod(shape, dtype=object))
    if kind.hasobject or kind not in (np.uint8, np.bool_, np.uint16, np.float16, np.float32, np.float64):
        raise ValueError(f"an array of {kind}; an image is uint8, uint16, bool, or floats in [0, 1]")
    if count > MAX_PIXELS or len(content) - stream.tell() < count * kind.itemsize:
        raise ValueError(f"an array of shape {shape} is too large, or the file is truncated")
    stream.seek(0)
    values = np.load(stream, allow_pickle=False)
    return _to_8_bit(values.reshape(*shape[:2], -1))


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint16:
        return np.asarray((values / 65535 * 255).round(), np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(f"values of type {values.dtype}; an image is uint8, uint16, bool, or floats in [0, 1]")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ValueError("floats outside [0, 1]; scale the image to [0, 1], or store it as uint8")
    return np.asarray((values.astype(np.float64) * 255).round(), np.uint8)
