"""Part 5: two processes that were given the same `out`: one is refused, or both end right."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.campaign.arena import Arena
from tests.campaign.oracle import partial_files
from tests.campaign.test_kills import COMMANDS, contents, same, start, whole

pytestmark = pytest.mark.campaign

SINGLE = [command for command, ranks in COMMANDS.items() if ranks == 1]


@pytest.mark.parametrize("command", SINGLE)
def test_two_commands_with_one_folder(arena: Arena, tmp_path: Path, rng: random.Random, command: str) -> None:
    alone, out = whole(arena, command, tmp_path / "whole"), tmp_path / "out"
    first = start(arena, command, out)
    time.sleep(rng.uniform(0, 0.5 * alone.seconds))
    second = start(arena, command, out)
    ends = [job.end(60 + 20 * alone.seconds) for job in (first, second)]
    assert {code for code, _ in ends} <= {0, 2}, ends
    assert 0 in {code for code, _ in ends}, ends
    for code, err in ends:
        if code == 2:
            assert "is in use by another ltx command" in err
        assert "Traceback" not in err
    assert not partial_files(out)
    assert same(contents(command, out), alone.contents)


def test_a_killed_command_does_not_keep_the_folder(arena: Arena, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = start(arena, "attribute", out)
    deadline = time.monotonic() + 60
    while not (out / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(job.processes[0].pid or 0, signal.SIGKILL)
    job.end(60)
    status, err = start(arena, "attribute", out).end(300)
    assert status == 0, err


def test_different_commands_with_one_folder(arena: Arena, tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = [start(arena, command, out) for command in ("attribute", "shards")]
    ends = [job.end(300) for job in jobs]
    for code, err in ends:
        assert code in (0, 2), ends
        assert "Traceback" not in err
    assert not partial_files(out)
