"""The built wheel, installed with its dependencies into a new environment, outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from skimage import data
from skimage.io import imsave

from ltx import __version__

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(PROJECT)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_contains_configs_and_checkpoints(wheel: Path) -> None:
    assert wheel.name.startswith(f"ltx-{__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("ltx/report/assets", "ltx/export/page"):
        files = [file.relative_to(PROJECT).as_posix() for file in (PROJECT / folder).iterdir()]
        assert files
        assert set(files) <= names
    for folder in ("configs", "checkpoints"):
        files = [file.relative_to(PROJECT) for file in (PROJECT / folder).rglob("*") if file.is_file()]
        assert files
        assert {f"ltx/shipped/{file.as_posix()}" for file in files} <= names
    assert {"ltx/py.typed", "ltx/__init__.pyi"} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]


@pytest.mark.slow
def test_the_installed_wheel_trains_finetunes_loads_and_attributes(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    here = tmp_path / "empty"
    here.mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(scripts / command[0]), *command[1:]], cwd=here, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("python", "-m", "pip", "install", "--quiet", str(wheel))
    assert run("ltx", "--version") == f"ltx {__version__}\n"
    installed = {entry["name"].lower() for entry in json.loads(run("python", "-m", "pip", "list", "--format=json"))}
    assert not installed & {"gradio", "onnx", "onnxscript", "onnxruntime", "playwright"}
    for command, extra in ((["export"], "export"), (["export", "out=page/"], "export"), (["demo"], "demo")):
        done = subprocess.run([scripts / "ltx", *command], cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.endswith(f"pip install 'ltx[{extra}]'\n")
        assert done.stderr.count("\n") == 1
    imsave(here / "photo.jpg", data.chelsea())
    run("ltx", "finetune", "images=photo.jpg")
    assert (here / "runs" / "explanations" / "index.html").is_file()
    (line,) = (here / "runs" / "explanations" / "explanations.jsonl").read_text().splitlines()
    assert json.loads(line)["image"] == "photo.jpg"
    run("ltx", "train", "trainer.max_steps=2")
    assert (here / "runs" / "train" / "explainer.safetensors").is_file()
    run("ltx", "train", "config=configs/train/released.yaml", "trainer.max_steps=1", "out=runs/by_config")
    assert run(
        "python",
        "-c",
        "import ltx, ltx.attribution, ltx.attribute, torch;"
        "explainer = ltx.load('tf_efficientnet_lite0');"
        "images = torch.rand(1, 3, *explainer.classifier.input_size);"
        "print(tuple(ltx.attribute('gradcam', explainer.classifier, images).shape), ltx.__file__)",
    ).startswith("(1, 1, 224, 224) " + str(tmp_path / "venv"))
