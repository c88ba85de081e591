"""`ltx finetune`: every setting of finetuning that the command has reaches the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltx.cli import finetune as command
from ltx.explainers.mask_network import MaskNetwork
from ltx.finetuning.per_image_settings import FinetuneSettings
from ltx.finetuning.settings import FinetuneConfig
from tests.support.small_inputs import write_photographs


class ReachedError(Exception):
    """Finetuning was called."""


def test_settings_of_the_command_reach_the_finetuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[FinetuneSettings] = []

    def finetune(explainer: MaskNetwork, images: Any, targets: Any, steps: int, settings: Any, names: Any) -> Any:
        given.append(settings)
        raise ReachedError

    monkeypatch.setattr(command, "finetune", finetune)
    photographs = write_photographs(tmp_path, ["a.png"], (40, 40))
    chosen: dict[str, Any] = {"scope": "head", "lr": 0.5, "select_by": "positive", "seed": 3}
    chosen |= {"alternate": True, "detail": False}
    with pytest.raises(ReachedError):
        command.finetune_files(FinetuneConfig(images=str(photographs), out=str(tmp_path / "out"), **chosen))
    assert {name: getattr(given[0], name) for name in chosen} == chosen
