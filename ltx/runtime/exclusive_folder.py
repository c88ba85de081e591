"""A folder of results that one command at a time writes to."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ltx.runtime.errors import InputError
from ltx.runtime.ranks import launched_ranks

LOCK = ".lock"


@contextmanager
def exclusive(out: str | Path, rank: int | None = None) -> Iterator[None]:
    """Lock a folder against other commands while the context lasts; only the first of several ranks locks it.

    The folder is created. If it is still empty after an error, it is removed. The operating system releases the lock
    of a killed process. On file systems without locks, and on Windows, nothing is locked.

    Args:
        out: the folder.
        rank: rank of this process; None = as set by torchrun.

    Raises:
        InputError: another process has locked the folder, or an error of `launched_ranks` if there is no `rank`.
    """
    rank = launched_ranks()[0] if rank is None else rank
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if rank > 0 or int(os.environ.get("LOCAL_RANK", "0")) > 0:
        yield
        return
    with (folder / LOCK).open("a+") as file:
        _lock(file.fileno(), folder)
        try:
            yield
        except BaseException:
            _remove_if_empty(folder)
            raise


def _lock(descriptor: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        # A record lock belongs to this process alone: loading processes that outlive it by seconds do not keep it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise InputError(f"out={folder} is in use by another ltx command; wait for it, or choose another") from None
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise


def _remove_if_empty(folder: Path) -> None:
    if [file.name for file in folder.iterdir()] == [LOCK]:
        (folder / LOCK).unlink()
        folder.rmdir()
