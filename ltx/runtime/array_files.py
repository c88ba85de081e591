"""Reading of `.npz` files, which may be damaged or a stranger's."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError

import numpy as np

from ltx.runtime.errors import InputError, first_line

DAMAGED = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, OverflowError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError),
    TokenError,
)
"""Exceptions of numpy and zipfile on damaged data."""


def read_arrays(file: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of a `.npz` file; pickled objects are refused.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is damaged, or not a `.npz` file.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it is not a .npz file")
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise InputError(f"{file} cannot be read: {first_line(error)}") from error
