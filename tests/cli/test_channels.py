"""Classifiers of one, four and five channels through all four commands, with images from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image

from ltx.cli.main import main

SIDE = 64
MODEL = ["classifier.name=test_resnet", "classifier.weights=random", "classifier.num_classes=4"]
MODEL += [f"classifier.input_size={SIDE}"]
QUICK = ["data.batch_size=2", "data.workers=0", "trainer.accelerator=cpu", "trainer.progress=false"]
QUICK += ["trainer.max_steps=2", "trainer.validate_every=2", "trainer.overlays=1"]


def run(*words: str) -> None:
    """`ltx WORDS` in this process, which must succeed."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (None, 0), words


def photographs(count: int = 6) -> list[np.ndarray]:
    """Crops of a portrait, uint8 `[SIDE, SIDE, 3]`."""
    portrait = Image.fromarray(skimage.data.astronaut()).resize((2 * SIDE, 2 * SIDE))
    return [np.asarray(portrait.crop((8 * i, 4 * i, 8 * i + SIDE, 4 * i + SIDE))) for i in range(count)]


def write(folder: Path, kind: str) -> int:
    """Write images of one kind, and return their number of channels."""
    folder.mkdir()
    for index, rgb in enumerate(photographs()):
        grey = rgb.mean(2).astype(np.uint8)
        alpha = np.tile(np.linspace(255, 0, SIDE, dtype=np.uint8), (SIDE, 1))
        if kind == "grey png":
            Image.fromarray(grey).save(folder / f"{index}.png")
        elif kind == "rgba png":
            Image.fromarray(np.dstack([rgb, alpha])).save(folder / f"{index}.png")
        elif kind == "five bands tif":
            tifffile.imwrite(
                folder / f"{index}.tif", np.dstack([rgb, grey, alpha]), photometric="minisblack", planarconfig="contig"
            )
        else:
            np.save(folder / f"{index}.npy", np.dstack([grey, 255 - grey]))
    return {"grey png": 1, "rgba png": 4, "five bands tif": 5, "two channels npy": 2}[kind]


@pytest.mark.parametrize("kind", ["grey png", "rgba png", "five bands tif", "two channels npy"])
def test_all_commands(kind: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    channels = write(images, kind)
    model = [*MODEL, f"classifier.channels={channels}"]
    run("train", *model, *QUICK, f"data.images={images}", f"out={tmp_path}/trained")
    given = [f"images={images}", "device=cpu"]
    run("finetune", f"checkpoint={tmp_path}/trained", *given, "steps=1", f"out={tmp_path}/finetuned")
    run("attribute", *model, *given, "method=gradcam", f"out={tmp_path}/attributed")
    run("evaluate", *model, *given, "methods=[gradcam,random]", "gallery=2", f"out={tmp_path}/evaluated")
    for folder in ("finetuned", "attributed"):
        assert len((tmp_path / folder / "explanations.jsonl").read_text().splitlines()) == 6
        check_report(tmp_path / folder, grey=channels < 3)
    scores = json.loads((tmp_path / "evaluated" / "scores.json").read_text())
    assert scores["methods"].keys() == {"gradcam", "random"}
    gallery = np.asarray(Image.open(tmp_path / "evaluated" / "gallery.png").convert("RGB"))
    photograph = gallery[:, : gallery.shape[1] // 3]
    assert (np.ptp(photograph, axis=2).max() < 8) == (channels < 3), "grey images are shown in grey"


def check_report(folder: Path, grey: bool) -> None:
    """The report shows each photograph, in colour or grey, next to its map."""
    views = [np.asarray(Image.open(file), np.float32) for file in (folder / "report" / "views").glob("*.jpg")]
    for rgb in photographs():
        expected = np.repeat(rgb.mean(2, keepdims=True), 3, 2) if grey else rgb
        assert min(np.abs(view[:, :SIDE] - expected).mean() for view in views) < 4
