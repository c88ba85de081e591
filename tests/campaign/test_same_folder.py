"""Part 5: two processes that were given the same `out`: one is refused, or both end right."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.campaign.arena import Arena
from tests.campaign.oracle import partial_files
from tests.campaign.test_kills import COMMANDS, contents, same, start

pytestmark = pytest.mark.campaign

SINGLE = [command for command in COMMANDS if "two processes" not in command]


@pytest.mark.parametrize("command", SINGLE)
def test_two_commands_with_one_folder(arena: Arena, tmp_path: Path, rng: random.Random, command: str) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    job = start(arena, command, whole)
    job.communicate(timeout=180)
    assert job.returncode == 0
    first = start(arena, command, out)
    time.sleep(rng.uniform(0, 0.3))
    second = start(arena, command, out)
    ends = []
    for job in (first, second):
        _, err = job.communicate(timeout=180)
        ends.append((job.returncode, err.decode()))
    assert {code for code, _ in ends} <= {0, 2}, ends
    assert 0 in {code for code, _ in ends}, ends
    for code, err in ends:
        if code == 2:
            assert "is in use by another ltx command" in err.splitlines()[-1]
        assert "Traceback" not in err
    assert not partial_files(out)
    assert same(contents(command, out), contents(command, whole))


def test_a_killed_command_does_not_keep_the_folder(arena: Arena, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = start(arena, "attribute", out)
    deadline = time.monotonic() + 60
    while not (out / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.kill()
    job.communicate()
    again = start(arena, "attribute", out)
    _, err = again.communicate(timeout=180)
    assert again.returncode == 0, err.decode()


def test_different_commands_with_one_folder(arena: Arena, tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs: list[subprocess.Popen[bytes]] = [start(arena, command, out) for command in ("attribute", "shards")]
    ends = [(job.communicate(timeout=180)[1].decode(), job.returncode) for job in jobs]
    for err, code in ends:
        assert code in (0, 2), ends
        assert "Traceback" not in err
    assert not partial_files(out)
