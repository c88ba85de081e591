"""Evaluations with invalid input, and with very few images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ltx import InputError
from ltx.checkpoints.folder import CONFIG, TENSORS
from ltx.evaluation.controls import CONTROLS
from ltx.evaluation.figures import shortened
from ltx.evaluation.plan import build
from ltx.evaluation.run import evaluate
from tests.support.small_evaluations import settings
from tests.support.small_inputs import close_folder


def test_broken_files_are_skipped_and_named(place: Path, tmp_path: Path):
    images = tmp_path / "images"
    images.mkdir()
    for file in sorted((place / "images").iterdir())[:3]:
        (images / file.name).write_bytes(file.read_bytes())
    (images / "1.png").write_bytes(b"")
    scores = evaluate(settings(place, tmp_path / "out", images=str(images), methods=["random"]))
    assert (scores["n"], scores["skipped"]) == (2, 1)
    assert scores["skipped_images"][0]["image"].endswith("1.png")
    assert "1.png is empty" in (tmp_path / "out" / "scores.md").read_text()
    for file in images.iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="none of the 3 images"):
        evaluate(settings(place, tmp_path / "none", images=str(images), methods=["random"]))


def test_folders_and_files_without_images_are_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    images = tmp_path / "images"
    shutil.copytree(place / "images", images)
    (images / "notes.txt").touch()
    closed = close_folder(images / "lost+found", monkeypatch)
    evaluation = build(settings(place, tmp_path / "out", images=str(images), methods=["random"]))
    assert evaluation.unreadable == []
    told = f"notes.txt; 1 folder cannot be listed: {closed} (Permission denied)"
    assert f"left out 1 file that is not an image by its suffix: {told}\n" in capsys.readouterr().out


def test_a_nan_map_raises_an_error_with_method_and_image(place: Path, tmp_path: Path, monkeypatch):
    def broken(classifier, images, targets, batch):
        maps = torch.rand(len(images), 1, 64, 64)
        maps[-1, 0, 3, 3] = float("nan")
        return maps

    monkeypatch.setitem(CONTROLS, "constant", broken)
    with pytest.raises(InputError, match=r"method constant: the map of image .*1\.png contains NaN"):
        evaluate(settings(place, tmp_path, methods=["constant"]))


def test_one_image_gives_no_significant_difference(place: Path, tmp_path: Path):
    evaluate(settings(place, tmp_path, methods=["gradcam", "gaussian"], limit=1, gallery=0))
    assert " *" not in (tmp_path / "scores.md").read_text().split("## Metrics")[0].replace("**", "")


def test_shortened_names_stay_distinct():
    names = [f"ltx:checkpoints/tf_efficientnet_lite0{end}@steps=25" for end in ("", "_inr")]
    assert len({shortened(name, 40) for name in names}) == 2
    assert all(len(shortened(name, 30)) == 30 for name in names)
    assert shortened("gradcam", 30) == "gradcam"


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_a_damaged_checkpoint_is_an_error_and_no_row_that_is_left_out(place: Path, tmp_path: Path, name: str):
    checkpoint = shutil.copytree(place / "checkpoint", tmp_path / "checkpoint")
    (checkpoint / name).write_bytes(b"[damaged")
    with pytest.raises(InputError, match=f"checkpoint={checkpoint}: {name} cannot be read"):
        build(settings(place, tmp_path / "out", methods=[f"ltx:{checkpoint}", "random"]))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"protocol": "ltxx"}, r"protocol='ltxx' is unknown; did you mean ltx"),
        ({"protocol": "ltx+ltx"}, "twice"),
        ({"protocol": "mosaic+localisation"}, "no object masks"),
        ({"protocol": "localisation"}, "masks=FOLDER"),
        ({"protocol": "transfer"}, r"second\.name=MODEL"),
        ({"masks": "/nowhere"}, "masks=/nowhere is not a folder"),
        ({"methods": []}, "empty list"),
        ({"methods": ["gradcamm"]}, "did you mean gradcam"),
        ({"methods": ["gradcam", "gradcam"]}, "twice"),
        ({"methods": ["iia2@variant=released,steps=5"]}, "join them with @"),
        ({"methods": ["iia2@variant=released", "steps=5"]}, "@option=value@option=value"),
        ({"methods": ["gradcam@layr=2"]}, "no option 'layr'"),
        ({"methods": ["gradcam@layer=laeyr4", "random"]}, r"methods: 'gradcam@layer=laeyr4': layer.*'laeyr4'"),
        ({"methods": ["random@seed=2"]}, "no option 'seed'"),
        ({"methods": ["integrated_gradients@steps=half"]}, "steps='half' is not a valid integer"),
        ({"methods": ["PLACE@steps=five"]}, "steps='five' is not a valid integer"),
        ({"methods": ["PLACE@steps=2@lr=fast"]}, "lr='fast' is not a valid number"),
        ({"methods": ["PLACE@select_by=positive"]}, "options require steps, as in @steps=25"),
        ({"protocol": "mosaic", "target": "3"}, "target=3 cannot be combined with protocol=mosaic"),
        ({"seed": -1}, "seed=-1; give 0 or more"),
        ({"methods": ["ltx:/nowhere"]}, "/nowhere does not contain explainer.safetensors"),
        ({"methods": ["gae"]}, "none of them supports this classifier"),
        ({"images": "/nowhere"}, "/nowhere does not exist"),
        ({"target": "zebra"}, "zebra"),
        ({"target": "label", "labels": "/nowhere.csv"}, "/nowhere.csv does not exist"),
        ({"max_batch": 0}, "max_batch=0; give 1 or more"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_each_mistake_raises_a_one_line_error(place: Path, tmp_path: Path, changes, text):
    if "methods" in changes:
        changes = {"methods": [name.replace("PLACE", f"ltx:{place}/checkpoint") for name in changes["methods"]]}
    with pytest.raises(InputError, match=text) as error:
        build(settings(place, tmp_path, **changes))
    assert "\n" not in str(error.value)
