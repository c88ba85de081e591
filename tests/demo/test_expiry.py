"""Files of the app expire: uploads, parts of uploads, results and downloads; its own examples stay."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from ltx.demo.expiry import delete_expired, expiring


def write(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("content")
    return file


def test_old_files_and_their_directories_are_deleted(tmp_path: Path) -> None:
    example, upload = write(tmp_path / "a" / "example.png"), write(tmp_path / "b" / "c" / "upload.png")
    (tmp_path / "link").symlink_to(example)
    kept = frozenset({example.parent, example})
    delete_expired(tmp_path, 60, kept)
    assert upload.exists()
    time.sleep(0.05)
    delete_expired(tmp_path, 0.02, kept)
    assert set(tmp_path.rglob("*")) - {upload.parent, upload.parent.parent} == {example.parent, example}
    time.sleep(0.05)  # a directory is as old as its last change
    for _ in range(2):
        delete_expired(tmp_path, 0, kept)
    assert set(tmp_path.rglob("*")) == {example.parent, example}


def test_a_file_that_is_handed_out_again_is_as_young_as_then(tmp_path: Path) -> None:
    first, second = write(tmp_path / "first"), write(tmp_path / "second")
    time.sleep(0.3)
    os.utime(second)
    delete_expired(tmp_path, 0.2, frozenset())
    assert (first.exists(), second.exists()) == (False, True)


def test_files_expire_as_long_as_the_context_is_open(tmp_path: Path) -> None:
    example = write(tmp_path / "example.png")
    with expiring(tmp_path, 0.1):
        upload = write(tmp_path / "upload.png")
        end = time.monotonic() + 10
        while upload.exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert not upload.exists()
        assert example.exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "expiry"]
