"""The two files of a Hugging Face Space."""

from __future__ import annotations

import runpy
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from ltx.demo.settings import DemoConfig

SPACE = Path(__file__).parents[2] / "examples" / "space"


def test_it_serves_the_app_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[DemoConfig] = []
    app = ModuleType("ltx.demo.app")

    @contextmanager
    def opened(config: DemoConfig):
        yield "page"

    def launch(page: str, config: DemoConfig) -> None:
        served.append(config)

    app.opened, app.launch = opened, launch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ltx.demo.app", app)
    monkeypatch.setenv("STEPS", "7")
    runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    assert [(config.host, config.port, config.steps) for config in served] == [("0.0.0.0", 7860, 7)]
    assert served[0].checkpoint == "tf_efficientnet_lite0"


def test_it_installs_the_extra() -> None:
    assert {file.name for file in SPACE.iterdir()} == {"app.py", "requirements.txt"}
    assert (SPACE / "requirements.txt").read_text().startswith("ltx[demo]")
