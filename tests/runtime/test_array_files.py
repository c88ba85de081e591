"""Damaged `.npz` files end in one line."""

from pathlib import Path

import numpy as np
import pytest

from ltx.runtime.array_files import read_arrays
from ltx.runtime.errors import InputError


def test_all_arrays_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(3), y=np.ones((2, 2)))
    assert {name: values.shape for name, values in read_arrays(tmp_path / "a.npz").items()} == {"x": (3,), "y": (2, 2)}
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "b.npz")


def test_every_truncation_and_many_flipped_bytes_are_one_line(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(30), y=np.random.default_rng(0).random((9, 9)))
    whole = (tmp_path / "a.npz").read_bytes()
    random = np.random.default_rng(0)
    contents = [whole[:length] for length in range(0, len(whole), 7)]
    for _ in range(300):
        changed = bytearray(whole)
        changed[random.integers(len(whole))] = random.integers(256)
        contents.append(bytes(changed))
    refusals = []
    for content in contents:
        (tmp_path / "b.npz").write_bytes(content)
        try:
            read_arrays(tmp_path / "b.npz")
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > len(whole) / 7
    assert all(line.startswith(f"{tmp_path / 'b.npz'} cannot be read: ") for line in refusals)
    assert not [line for line in refusals if "\n" in line]


def test_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="cannot be read: Object arrays cannot be loaded"):
        read_arrays(tmp_path / "a.npz")
