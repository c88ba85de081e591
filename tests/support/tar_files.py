"""Small tar files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image


def jpeg(colour: str | tuple[int, int, int] = "red", size: tuple[int, int] = (20, 20)) -> bytes:
    """An encoded JPEG of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "jpeg")
    return stream.getvalue()


def write_tar(file: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar file with these names and contents."""
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file
