"""A table of measurements that is written while a benchmark runs, so that an interrupted run keeps its results."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx.runtime.atomic_files import write_atomically
from ltx.runtime.errors import InputError, PartialFailureError, first_line


@dataclass
class Line:
    """One measurement.

    Attributes:
        section: heading of the section.
        what: what was measured.
        result: the result in words.
        values: the numbers, for other programs.
        seconds: time that the measurement took.
    """

    section: str
    what: str
    result: str
    values: Mapping[str, Any]
    seconds: float


class Table:
    """Lines of measurements, printed and written to `OUT/NAME.md` and `OUT/NAME.json` as they are added.

    Args:
        folder: the folder, which is created.
        name: stem of the two files.
        conditions: machine, versions and settings, shown above the table.
    """

    def __init__(self, folder: Path, name: str, conditions: Mapping[str, str]) -> None:
        self.folder, self.name, self.conditions = folder, name, dict(conditions)
        self.lines: list[Line] = []
        self._failures: list[str] = []
        self._start = self._last = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        for key, value in self.conditions.items():
            print(f"{key}: {value}", flush=True)
        self._write()

    @property
    def elapsed(self) -> float:
        """Seconds since the table was created."""
        return time.monotonic() - self._start

    def add(self, section: str, what: str, result: str, **values: Any) -> None:
        """Add a line; its time is that since the previous line."""
        now = time.monotonic()
        self.lines.append(Line(section, what, result, values, now - self._last))
        self._last = now
        print(f"[{self.elapsed:6.1f} s] {section}: {what}: {result}", flush=True)
        self._write()

    def add_failure(self, section: str, what: str, error: Exception) -> None:
        """Add a line that says why a measurement failed. Only a fault of the program prints a traceback."""
        reason = first_line(error)
        if not isinstance(error, InputError):
            traceback.print_exception(error)
            reason = f"{type(error).__name__}: {reason}"
        self._failures.append(f"{section}, {what}: {reason}")
        self.add(section, what, f"failed: {reason}")

    def finish(self) -> None:
        """Print where the table is.

        Raises:
            PartialFailureError: measurements failed.
        """
        print(f"wrote {self.folder / self.name}.md and {self.name}.json after {self.elapsed:.0f} s")
        if self._failures:
            raise PartialFailureError(self._failures, "measurement", "failed")

    def _write(self) -> None:
        content = {
            "conditions": self.conditions,
            "seconds": round(self.elapsed, 1),
            "lines": [
                {"section": line.section, "what": line.what, "result": line.result, "seconds": round(line.seconds, 2)}
                | {"values": line.values}
                for line in self.lines
            ],
        }
        write_atomically(
            self.folder / f"{self.name}.json", (json.dumps(content, indent=2, default=str) + "\n").encode()
        )
        write_atomically(self.folder / f"{self.name}.md", self._markdown().encode())

    def _markdown(self) -> str:
        text = [f"- {key}: {value}" for key, value in self.conditions.items()]
        section = None
        for line in self.lines:
            if line.section != section:
                section = line.section
                text += ["", f"## {section}", "", "| what | result |", "|---|---|"]
            text.append(f"| {line.what} | {line.result.replace('|', '/')} |")
        return "\n".join(text) + "\n"
