"""A folder of results belongs to one command at a time, until it ends in whatever way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ltx.runtime.errors import InputError
from ltx.runtime.exclusive_folder import LOCK, exclusive

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_until_the_other_process_is_killed(tmp_path: Path) -> None:
    (tmp_path / "result").touch()
    words = [sys.executable, "-S", "-c", HOLD, str(tmp_path / LOCK)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=r"^out=.* is in use by another ltx command"), exclusive(tmp_path):
            pass
        other.kill()
    with exclusive(tmp_path):
        pass


def test_other_ranks_of_the_command_use_the_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with exclusive(tmp_path / "out"):
        assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_stays_empty_is_removed_after_an_error(tmp_path: Path) -> None:
    def fail(folder: Path, *written: str) -> None:
        with exclusive(folder):
            for name in written:
                (folder / name).touch()
            raise InputError("no images")

    with pytest.raises(InputError, match="no images"):
        fail(tmp_path / "empty")
    with pytest.raises(InputError, match="no images"):
        fail(tmp_path / "full", "result")
    assert not (tmp_path / "empty").exists()
    assert (tmp_path / "full/result").exists()
