"""`ltx evaluate`: compare explanation methods."""

from __future__ import annotations

from pathlib import Path

from ltx.evaluation.run import evaluate
from ltx.evaluation.settings import EvaluationConfig
from ltx.report.write import write_report
from ltx.runtime.errors import PartialFailureError
from ltx.runtime.exclusive_folder import exclusive


def evaluate_methods(config: EvaluationConfig) -> None:
    """Evaluate, and print the table.

    Raises:
        InputError: see `ltx.evaluation.run.evaluate`.
        PartialFailureError: the results are written, but entries of `images` could not be used.
    """
    with exclusive(config.out):
        results = evaluate(config)
    if results is None:
        return
    print((Path(config.out) / "scores.md").read_text("utf-8"))
    print(f"report: {write_report([config.out])}")
    entries = set(map(str, config.images)) if isinstance(config.images, (list, tuple)) else set()
    failed = [entry["reason"] for entry in results["skipped_images"] if entry["image"] in entries]
    if failed:
        raise PartialFailureError(failed)
