"""Runs a command and judges how it ended: a true result, or one line that names the fault; nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import sys
import tarfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

from ltx.cli.main import main

LIMIT = 60
"""Seconds of CPU time after which a command counts as hanging, and a tenth of those on the clock."""

HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Warnings that Python does not show to users by default."""


@dataclass
class Outcome:
    """How a command ended; `trace` is the traceback of an exception that reached the user."""

    status: int
    out: str
    err: str
    trace: str = ""


class Hang(BaseException):
    """The command ran longer than the limit."""


@contextlib.contextmanager
def limited(seconds: int = LIMIT) -> Iterator[None]:
    """Raise `Hang` in this thread after some seconds of CPU time, or ten times that on the clock.

    On a busy machine, a command may take longer than it works.
    """

    def ring(signum: int, frame: FrameType | None) -> None:
        raise Hang(f"still running after {seconds} s")

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds)}
    previous = {signum: signal.signal(signum, ring) for signum in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for signum, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(signum, previous[signum])


def call(words: list[str], seconds: int = LIMIT) -> Outcome:
    """Run `ltx WORDS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    status, trace = 0, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("always")
        for category in HIDDEN:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = _print_warning
        try:
            with limited(seconds):
                main(words)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            status, trace = -1, traceback.format_exc()
    return Outcome(status, out.getvalue(), err.getvalue(), trace)


def _print_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Print a warning as a terminal shows it; pytest would keep it for its own summary."""
    print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)


def faults(outcome: Outcome, names: list[str]) -> list[str]:
    """What is wrong with the way a command ended.

    Args:
        outcome: of the command.
        names: one of these must appear in the line of an error.
    """
    found = []
    if outcome.trace:
        found.append("hang" if "Hang" in outcome.trace else f"traceback: {outcome.trace.strip().splitlines()[-1]}")
    if "Traceback" in outcome.out + outcome.err:
        found.append("traceback printed")
    if outcome.status in (1, 2, 3):
        line = (outcome.err.strip().splitlines() or [""])[-1]
        if not line.startswith(("error: ", "partly failed: ")):
            found.append(f"status {outcome.status} without an error line: {line!r}")
        elif not any(re.search(rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])", line) for name in names):
            found.append(f"the error names none of {names}: {line!r}")
        if len(line) > 3000:
            found.append("an error of more than 3000 characters")
    elif outcome.status not in (0, -1):
        found.append(f"status {outcome.status}")
    return found


def partial_files(folder: Path) -> list[str]:
    """Files under final names that are not whole."""
    return [f"partial file {file.name}: {reason}" for file in folder.rglob("*") if (reason := _unreadable(file))]


def _unreadable(file: Path) -> str:
    if not file.is_file() or file.name.startswith("."):
        return ""
    try:
        if file.suffix in (".png", ".jpg"):
            with Image.open(file) as image:
                image.load()
        elif file.suffix == ".npz":
            with np.load(file) as arrays:
                [arrays[name] for name in arrays]
        elif file.suffix == ".safetensors":
            with safe_open(file, "np") as tensors:
                list(tensors.keys())
        elif file.suffix == ".jsonl":
            [json.loads(line) for line in file.read_bytes().splitlines()]
        elif file.suffix == ".json":
            json.loads(file.read_bytes())
        elif file.suffix == ".tar":
            with tarfile.open(file) as archive:
                archive.getmembers()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def unaccounted(images: list[str], explained: list[str], outcome: Outcome) -> list[str]:
    """Images that are neither among the results nor named by the command."""
    printed = outcome.out + outcome.err
    return [f"lost in silence: {name}" for name in images if name not in explained and Path(name).name not in printed]
