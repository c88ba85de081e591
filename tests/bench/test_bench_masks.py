"""`ltx bench masks` with a small checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx.bench.masks import measure
from ltx.bench.settings import MasksBench
from tests.support.small_checkpoints import resnet18_weights, small_checkpoint
from tests.support.small_inputs import write_photographs


def test_photographs_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_checkpoint(tmp_path / "checkpoint", resnet18_weights(tmp_path / "weights.safetensors"))
    photos = write_photographs(tmp_path / "photos", ("a.png", "b.png", "c.png"), (64, 64))
    (photos / "b.png").write_bytes(b"no picture")
    measure(MasksBench(checkpoint=str(tmp_path / "checkpoint"), images=str(photos), steps=[0], mosaics=2, device="cpu"))
    printed = capsys.readouterr().out
    assert ", 2 images," in printed
    assert "skipped 1 file: " in printed
    assert "b.png is not an image" in printed
