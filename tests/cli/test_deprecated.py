"""Commands of earlier releases still work and name their replacement."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "command", "key"),
    [
        ("ltx.attribute", "attribute", "method"),
        ("ltx.evaluate", "evaluate", "methods"),
        ("ltx.bench", "bench", "benchmarks:"),
        ("ltx.data.shards", "shards", "per_shard"),
    ],
)
def test_an_old_command_runs_the_new_one_and_names_it(module: str, command: str, key: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: ltx {command} ")
    assert key in done.stdout
    assert done.stderr.splitlines() == [
        f"python -m {module} is now: ltx {command}; the old name will be removed in the next release"
    ]


def test_settings_of_an_old_command_are_passed_on() -> None:
    words = [sys.executable, "-m", "ltx.data.shards", "per_shard=0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: per_shard=0; give 1 or more")
