"""`ltx evaluate`: compare explanation methods."""

from __future__ import annotations

from pathlib import Path

from ltx.evaluation.run import evaluate
from ltx.evaluation.settings import EvaluationConfig
from ltx.report.write import write_report


def evaluate_methods(config: EvaluationConfig) -> None:
    """Evaluate, and print the table.

    Raises:
        InputError: see `ltx.evaluation.run.evaluate`.
    """
    if evaluate(config) is not None:
        print((Path(config.out) / "scores.md").read_text())
        print(f"report: {write_report([config.out])}")
