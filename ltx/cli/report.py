"""`ltx report`: a page that shows results."""

from __future__ import annotations

from pathlib import Path

from ltx.report.settings import ReportConfig
from ltx.report.write import write_report
from ltx.results.settings import ExplainConfig
from ltx.runtime.errors import InputError


def report(config: ReportConfig) -> None:
    """Write the page of one or two folders, and print where it is.

    Raises:
        InputError: see `ltx.report.write.write_report`.
    """
    print(f"report: {write_report(config.folders, config.out)}")


def report_explanations(config: ExplainConfig) -> None:
    """Write `index.html` for explanations that a command has just written.

    The explanations are complete without it: where it cannot be written, a line says so and the command succeeds.
    """
    if config.save != "pictures":
        return
    try:
        print(f"report: {write_report([Path(config.out)])}")
    except (InputError, OSError) as error:
        print(f"no report: {error}")
