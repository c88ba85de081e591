"""Files that are there as a whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

PART = ".part"
"""How the hidden names of what is being written end."""


@contextmanager
def beside(file: Path, flushed: bool = True) -> Iterator[BinaryIO]:
    """A stream whose content takes the name `file` once all of it is written.

    It is written under a hidden name that is the process's own: ranks that write the same file at once do not take it
    from one another. An error removes it; a killed process leaves it behind.

    Args:
        flushed: wait until it is on the disk, so that a computer that stops leaves no empty file either; several
            milliseconds, too many for each of a million results.
    """
    # A digest: the names together could be longer than a file's name may be.
    own = hashlib.sha256(f"{platform.node()} {os.getpid()} {file.name}".encode(errors="surrogateescape")).hexdigest()
    part = file.with_name(f".{own[:16]}{PART}")
    try:
        with part.open("wb") as stream:
            yield stream
            if flushed:
                _flush(stream)
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_beside(file: Path, content: bytes) -> None:
    """Write a file through `beside`."""
    with beside(file) as stream:
        stream.write(content)


def write_together(contents: dict[Path, bytes]) -> None:
    """Write files that belong together: none takes its name before all of them are on the disk."""
    with ExitStack() as stack:
        for file, content in reversed(contents.items()):  # the stack ends with the first
            stream = stack.enter_context(beside(file, flushed=False))
            stream.write(content)
            _flush(stream)


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
