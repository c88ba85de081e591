"""The app without a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ltx.demo.settings import DemoConfig
from ltx.finetuning.settings import LoadedClassifierConfig
from ltx.runtime.errors import InputError
from tests.support.small_checkpoints import OTHER_HEAD, own_checkpoint

pytest.importorskip("gradio", reason="the extra [demo] is not installed")

from ltx.demo import app


def test_the_settings_of_the_classifier_are_those_of_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "build", lambda built: built)
    checkpoint = str(own_checkpoint(tmp_path / "checkpoint"))
    config = DemoConfig(checkpoint=checkpoint, classifier=LoadedClassifierConfig(**OTHER_HEAD), device="cpu")
    with pytest.raises(InputError, match="if you trust it, set trust=true"), app.opened(config):
        pass
    with app.opened(replace(config, trust=True)) as opened:
        assert opened.labels == ["cat", "dog", "owl"]
        assert opened.explainer.classifier.head == "sigmoid"
