"""The two files of a Hugging Face Space."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import yaml

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


def test_it_installs_what_the_package_and_the_app_need() -> None:
    project = tomllib.loads((SPACE.parents[1] / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    assert (SPACE / "requirements.txt").read_text().splitlines() == needed


def test_its_readme_configures_a_space() -> None:
    start, settings, _ = (SPACE / "README.md").read_text().split("---\n", 2)
    assert start == ""
    configured = yaml.safe_load(settings)
    assert configured["sdk"] == "gradio"
    assert (SPACE / configured["app_file"]).is_file()


@pytest.mark.slow
def test_it_starts_as_its_readme_says(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra [demo] is not installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), "."]
    subprocess.run(command, cwd=SPACE.parents[1], check=True, timeout=300)
    for file in SPACE.iterdir():
        shutil.copy(file, tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PORT": "0"}
    command = [sys.executable, "-u", "app.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().rpartition(" ")[2].strip().replace("0.0.0.0", "127.0.0.1")
        try:
            with urllib.request.urlopen(address, timeout=30) as page:
                assert b"Which pixels does the prediction rest on?" in page.read()
        finally:
            process.terminate()
