"""`python -m ltx.evaluate`: compare explanation methods."""

from __future__ import annotations

from pathlib import Path

from ltx.config.command_line import run
from ltx.evaluation.run import evaluate
from ltx.evaluation.settings import EvaluationConfig


def main(config: EvaluationConfig) -> None:
    """Evaluate and print the table."""
    if evaluate(config) is not None:
        print((Path(config.out) / "scores.md").read_text())


if __name__ == "__main__":
    run(
        main,
        EvaluationConfig,
        "python -m ltx.evaluate",
        "Compare explanation methods: faithfulness, localisation and sanity, with intervals. Writes scores.json, "
        "per_image.csv, scores.md, curves.png and gallery.png. Under torchrun the work is divided over the ranks.",
    )
