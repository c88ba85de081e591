"""Deletes the files of the app that are older than an age: uploads, results and downloads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def delete_expired(folder: Path, seconds: float, kept: frozenset[Path]) -> None:
    """Delete all files in `folder` that are older than `seconds`, and directories that have become empty.

    Gradio deletes only files that it has registered, which leaves out downloads and uploads that were cut off.

    Args:
        folder: also its subdirectories are searched.
        seconds: age since the file was last written, renamed or handed out again.
        kept: files that are never deleted.
    """
    latest = time.time() - seconds
    # Contents come before the directory that holds them.
    for path in sorted(set(folder.rglob("*")) - kept, reverse=True):
        with suppress(OSError):  # it is gone, or a directory that is not empty
            if path.lstat().st_ctime < latest:
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                else:
                    path.unlink()


@contextmanager
def expiring(folder: Path, seconds: float) -> Iterator[None]:
    """Delete files of `folder` at an age between `seconds` and 1.1 times that, as long as the context is open.

    Files that exist already are kept: they are the app's own examples.
    """
    kept = frozenset(folder.rglob("*"))
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(seconds / 10):
            delete_expired(folder, seconds, kept)

    thread = threading.Thread(target=work, name="expiry", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
