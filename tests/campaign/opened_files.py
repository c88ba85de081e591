"""Which files are opened, as the Linux kernel reports it: by Python and by libraries alike."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

IN_OPEN = 0x20
LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def opened_files(root: Path) -> Iterator[set[Path]]:
    """Context that collects the files below a folder that are opened within it, by any process."""
    queue = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    folders = {}
    for folder in [root, *(place for place in root.rglob("*") if place.is_dir())]:
        folders[LIBC.inotify_add_watch(queue, bytes(folder), IN_OPEN)] = folder
    assert min(queue, *folders) >= 0, os.strerror(ctypes.get_errno())
    seen: set[Path] = set()
    try:
        yield seen
        with contextlib.suppress(BlockingIOError):
            while events := os.read(queue, 1 << 16):
                place = 0
                while place < len(events):
                    watch, _, _, length = struct.unpack_from("iIII", events, place)
                    name = events[place + 16 : place + 16 + length].rstrip(b"\0")
                    seen.add(folders[watch] / os.fsdecode(name))
                    place += 16 + length
    finally:
        os.close(queue)
