"""Atomic file writes: a file exists complete or not at all, however the writing process ends."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".part"
"""Suffix of the hidden temporary files."""


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Name the file in errors of writing to it, such as a full disk: those of an open stream have no name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise


@contextmanager
def atomic_write(file: Path, flushed: bool = True) -> Iterator[BinaryIO]:
    """Open a stream whose content is renamed to `file` when the context exits without an error.

    The content is written to a hidden temporary file whose name is unique to the process, so that several ranks can
    write the same file at once. An error removes the temporary file; a killed process leaves it behind.

    Args:
        file: the destination; replaced if it exists.
        flushed: sync to disk before renaming, so that a power failure cannot leave an empty file. This takes several
            milliseconds, too long for each of a million results.
    """
    # A digest: host, process and name together could exceed the maximum length of a file name.
    writer = hashlib.sha256(f"{platform.node()} {os.getpid()} {file.name}".encode(errors="surrogateescape")).hexdigest()
    temporary = file.with_name(f".{writer[:16]}{PARTIAL}")
    try:
        with writing(file):
            with temporary.open("wb") as stream:
                yield stream
                if flushed:
                    _sync(stream)
            os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(file: Path, content: bytes) -> None:
    """Write `content` to `file` with `atomic_write`."""
    with atomic_write(file) as stream:
        stream.write(content)


def write_all_atomically(contents: dict[Path, bytes]) -> None:
    """Write several files such that none is renamed before all of them are on disk."""
    with ExitStack() as stack:
        for file, content in reversed(contents.items()):  # the stack exits in reverse order
            stream = stack.enter_context(atomic_write(file, flushed=False))
            stream.write(content)
            _sync(stream)


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
