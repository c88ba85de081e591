"""The image formats that can be read, by the suffixes of their files."""

from __future__ import annotations

import os
from functools import cache
from inspect import isclass

from PIL import Image, ImageFile

ARRAY_SUFFIX = ".npy"
"""Arrays `[H, W]` or `[H, W, C]`, see `ltx.data.reading`."""


@cache
def image_suffixes() -> frozenset[str]:
    """Lower-case suffixes, with their dot, of the formats that Pillow can decode, and of arrays."""
    Image.init()
    decodable = {name for name, (plugin, *_) in Image.OPEN.items() if not _only_identified(name, plugin)}
    return frozenset([ARRAY_SUFFIX, *(s for s, name in Image.registered_extensions().items() if name in decodable)])


def _only_identified(name: str, plugin: object) -> bool:
    """Whether Pillow recognises a format without a decoder for it: stubs such as HDF5, and MPEG videos."""
    return name == "MPEG" or (isclass(plugin) and issubclass(plugin, ImageFile.StubImageFile))


def is_image_name(name: str) -> bool:
    """Whether a file is an image by its suffix."""
    return os.path.splitext(name)[1].lower() in image_suffixes()
