"""The summary of a test run."""

from __future__ import annotations

from types import SimpleNamespace

from tests.conftest import NO_SHARED_DATA, pytest_terminal_summary


def test_the_summary_counts_tests_that_lacked_the_shared_data() -> None:
    lines: list[str] = []
    reasons = (f"Skipped: {NO_SHARED_DATA}", f"Skipped: {NO_SHARED_DATA}", "Skipped: no browser")
    skipped = [SimpleNamespace(longrepr=("file.py", 3, reason)) for reason in reasons]
    pytest_terminal_summary(SimpleNamespace(stats={"skipped": skipped}, write_line=lines.append))
    assert lines == [f"skipped 2: {NO_SHARED_DATA}"]
    pytest_terminal_summary(SimpleNamespace(stats={"passed": skipped}, write_line=lines.append))
    assert len(lines) == 1
