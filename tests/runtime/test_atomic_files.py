"""Atomic file writes: errors, and several processes writing at once."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ltx.runtime.atomic_files import atomic_write, write_all_atomically, write_atomically, writing


def test_processes_can_write_the_same_file_at_once(tmp_path: Path):
    """Every rank saves the settings; no rank may rename a file that another is still writing."""
    program = "import sys\nfrom pathlib import Path\nfrom ltx.runtime.atomic_files import write_atomically\n"
    program += "for _ in range(300): write_atomically(Path(sys.argv[1]), b'settings')"
    file = tmp_path / "settings.yaml"
    writers = [subprocess.Popen([sys.executable, "-c", program, str(file)]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["settings.yaml"]


def test_error_keeps_the_previous_file(tmp_path: Path):
    file = tmp_path / "map.npz"
    write_atomically(file, b"before")

    def write_half() -> None:
        with atomic_write(file) as stream:
            stream.write(b"after")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write_half()
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_names_of_the_maximum_length(tmp_path: Path):
    file = tmp_path / ("n" * 251 + ".png")
    write_atomically(file, b"picture")
    assert file.read_bytes() == b"picture"


def test_several_files_are_replaced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, tensors = tmp_path / "config.yaml", tmp_path / "explainer.safetensors"
    write_all_atomically({config: b"old settings", tensors: b"old network"})
    flushed: list[int] = []

    def full(descriptor: int) -> Any:
        flushed.append(descriptor)
        if len(flushed) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_all_atomically({config: b"new settings", tensors: b"new network"})
    assert [file.read_bytes() for file in (config, tensors)] == [b"old settings", b"old network"]
    assert sorted(tmp_path.iterdir()) == [config, tensors]
    write_all_atomically({config: b"new settings", tensors: b"new network"})
    assert [file.read_bytes() for file in (config, tensors)] == [b"new settings", b"new network"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path):
    record = tmp_path / "record.jsonl"
    record.symlink_to("/dev/full")

    def append():
        with writing(record), record.open("a") as stream:
            stream.write("line\n")

    def replace_it():
        with atomic_write(record):
            raise OSError(28, "No space left on device")

    for write in (append, replace_it):
        with pytest.raises(OSError, match="No space left") as raised:
            write()
        assert raised.value.filename == str(record)
