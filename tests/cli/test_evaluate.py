"""`ltx evaluate` around the evaluation itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from ltx.cli.evaluate import evaluate_methods
from ltx.evaluation.settings import EvaluationConfig


def test_the_table_is_printed_whatever_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(config: EvaluationConfig) -> dict[str, Any]:
        Path(config.out, "scores.md").write_text("| 1.0 ± 0.5 |", encoding="utf-8")
        return {"skipped_images": []}

    monkeypatch.setattr("ltx.cli.evaluate.evaluate", evaluate)
    monkeypatch.setattr("ltx.cli.evaluate.write_report", lambda folders: "index.html")
    monkeypatch.setattr(io, "text_encoding", lambda encoding, stacklevel=2: encoding or "ascii")
    evaluate_methods(EvaluationConfig(out=str(tmp_path)))
    assert "| 1.0 ± 0.5 |\nreport: index.html" in capsys.readouterr().out
