"""Mistakes at `ltx train` and `ltx finetune`: one line, a non-zero exit status, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx.cli.main import main
from tests.support.small_inputs import write_photographs, write_weights

ROOT = Path(__file__).parent.parent.parent
SMALL = [
    "classifier.name=resnet10t",
    "classifier.num_classes=4",
    "classifier.input_size=64",
    "data.workers=0",
    "data.batch_size=2",
    "trainer.accelerator=cpu",
    "trainer.progress=false",
    "trainer.max_steps=2",
    "trainer.validate_every=2",
    "trainer.overlays=1",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, photographs (good and bad), and a trained checkpoint."""
    folder = tmp_path_factory.mktemp("place")
    write_weights(folder)
    (folder / "names.txt").write_text("cat\ndog\nbird\nfish\n")
    write_photographs(folder / "good", ["0.jpg", "deep/1.jpg", "2.jpg", "deep/3.jpg", "4.jpg"], (70, 90))
    pretrain_words(folder, f"data.images={folder}/good", f"out={folder}/checkpoint", succeeds=True)
    return folder


def status(*words: str) -> int:
    """The exit status of `ltx WORDS`, run in this process."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def pretrain_words(place: Path, *words: str, succeeds: bool = False) -> int:
    fixed = [*SMALL, f"classifier.weights={place}/weights.safetensors", f"classifier.class_names={place}/names.txt"]
    code = status("train", *fixed, *words)
    assert not succeeds or code == 0
    return code


def finetune_words(place: Path, *words: str) -> int:
    return status("finetune", f"checkpoint={place}/checkpoint", "steps=1", *words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["classifier.name=resnet10x"], "did you mean resnet10t"),
        (["classifier.nam=resnet18"], "classifier.name"),
        (["trainer.max_steps=many"], "trainer.max_steps"),
        (["explainer.name=unett"], "unet"),
        (["data.images=nowhere"], "nowhere"),
        (["fill=purple"], "black, mean, blur, noise"),
        (["classifier.num_classes=9", "classifier.class_names=null"], "does not fit resnet10t"),
        (["classifier.class_names=null", "classifier.weights=nothing.pth"], "nothing.pth does not exist"),
        (["objective.area.weight=[[1,2],[0,1]]"], "objective.area.weight"),
        (["explainer.name=vit"], "use explainer.name=unet"),
        (["steps"], "steps"),
    ],
)
def test_training_mistakes(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], expected: str
):
    code = pretrain_words(place, f"data.images={place}/good", f"out={tmp_path}/out", *words)
    printed = capfd.readouterr().err
    line = printed.strip().splitlines()[-1]
    assert code == 2
    assert line.startswith("error: ")
    assert expected in line
    assert "Traceback" not in printed


def test_weights_of_other_shapes_name_three_tensors(place: Path, capfd: pytest.CaptureFixture[str]):
    words = ["classifier.num_classes=9", "classifier.name=resnet18", "classifier.class_names=null"]
    assert pretrain_words(place, f"data.images={place}/good", *words) == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.count(" in the file, ") == 3
    assert "more" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["target=catt"], "did you mean cat"),
        (["target=7"], "indices go from 0 to 3"),
        (["checkpoint=nowhere"], "does not contain explainer.safetensors"),
        (["scope=all"], "shares"),
        (["select_by=pos"], "positive"),
        (["device=cuda:99"], "device=cuda:99"),
        (["images=nothing_here/*.jpg"], "nothing_here"),
        (["target=[0,1]"], "target lists 2 classes for 5 images"),
        (["target=[0,1,2,3,1.5]"], "target=1.5 is not a valid class"),
        (["target=[0,1,2,3,[1]]"], "target=[1] is not a valid class"),
        (["images=[1,[2]]"], "images=[1, [2]]; give a file"),
        (["images=[1,2]"], "images=1 does not exist"),
    ],
)
def test_finetuning_mistakes(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], expected: str
):
    code = finetune_words(place, f"images={place}/good", f"out={tmp_path}/out", *words)
    printed = capfd.readouterr().err
    assert code == 2
    assert expected in printed.strip().splitlines()[-1]
    assert "Traceback" not in printed


def test_a_checkpoint_for_other_weights_is_refused(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    torch.manual_seed(5)
    save_file(timm.create_model("resnet10t", num_classes=4).state_dict(), tmp_path / "other.safetensors")
    words = [f"images={place}/good", f"out={tmp_path}/out", f"classifier.weights={tmp_path}/other.safetensors"]
    assert finetune_words(place, *words) == 2
    assert (
        "was trained for resnet10t with 4 classes, not for resnet10t with 4"
        in capfd.readouterr().err.strip().splitlines()[-1]
    )


def test_a_finetuned_head_is_explained_and_does_not_mix_with_results_of_another(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    stored = load_file(place / "weights.safetensors")
    stored["fc.weight"], stored["fc.bias"] = torch.randn(3, 512), torch.zeros(3)
    save_file(stored, tmp_path / "head.safetensors")
    words = [f"images={place}/good/0.jpg", f"out={tmp_path}/out"]
    head = [f"classifier.weights={tmp_path}/head.safetensors", "classifier.num_classes=3"]
    with pytest.warns(UserWarning, match="so it explains this head with 3 classes"):
        assert finetune_words(place, *words, *head, "classifier.class_names=[red,green,blue]", "target=blue") == 0
    assert json.loads((tmp_path / "out" / "explanations.jsonl").read_text())["label"] == "blue"
    assert finetune_words(place, *words, "target=2") == 2
    assert "contains explanations made with" in capfd.readouterr().err


def test_a_nan_stops_training_with_one_line(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    from ltx.objectives.keep import Keep

    monkeypatch.setattr(Keep, "__call__", lambda self, batch, logits: batch.mask.sum((1, 2, 3)) * float("nan"))
    assert pretrain_words(place, f"data.images={place}/good", f"out={tmp_path}/out") == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: the term keep is not finite at step 0, for the images ")
    assert "the last checkpoint is intact" in line


def test_bf16_and_wandb_offline(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually):
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = ["trainer.precision=bf16", "classifier.precision=bf16", "wandb.mode=offline", f"out={tmp_path}/out"]
    pretrain_words(place, f"data.images={place}/good", *words, succeeds=True)
    stored = list((tmp_path / "out").glob("wandb/offline-run-*/run-*.wandb"))
    assert len(stored) == 1
    assert eventually(lambda: stored[0].stat().st_size > 1000)
    assert list((tmp_path / "out").glob("wandb/offline-run-*/files/media/images/masks*.png"))


def test_broken_images_are_skipped_and_unusual_ones_converted(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    whole = (place / "good" / "0.jpg").read_bytes()
    (mixed / "empty.jpg").write_bytes(b"")
    (mixed / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (mixed / "text.png").write_text("no picture")
    picture = Image.open(place / "good" / "0.jpg")
    picture.convert("L").save(mixed / "grey.png")
    picture.convert("P").save(mixed / "palette.png")
    picture.convert("CMYK").save(mixed / "cmyk.jpg")
    picture.convert("RGBA").save(mixed / "alpha.png")
    assert finetune_words(place, f"images={mixed}", f"out={tmp_path}/out") == 0
    told = capfd.readouterr().out
    assert "skipped 3 files" in told
    assert all(name in told for name in ("empty.jpg", "truncated.jpg", "text.png"))
    lines = [json.loads(line) for line in (tmp_path / "out" / "explanations.jsonl").read_text().splitlines()]
    assert sorted(Path(line["image"]).name for line in lines) == ["alpha.png", "cmyk.jpg", "grey.png", "palette.png"]
    only_bad = tmp_path / "bad"
    only_bad.mkdir()
    (mixed / "empty.jpg").rename(only_bad / "empty.jpg")
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.add(only_bad / "empty.jpg", "empty.jpg")
    for source in (only_bad, tmp_path / "bad.tar"):
        assert finetune_words(place, f"images={source}", f"out={tmp_path}/none") == 2
        assert "none of the 1 images can be read" in capfd.readouterr().err


def test_finetuning_writes_the_documented_files_and_resumes(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    words = [f"images={place}/good", f"out={out}", "batch_size=2"]
    assert finetune_words(place, *words) == 0
    lines = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
    assert list(lines[0]) == [
        "image",
        "target",
        "label",
        "probability",
        "probability_kept",
        "probability_removed",
        "mask_mean",
        "method",
        "steps",
        "seconds",
        "stem",
        "source",
    ]
    stored = np.load(out / "deep" / "1.npz")
    assert stored["image"].shape == (64, 64, 3)
    assert stored["image"].dtype == np.uint8
    assert stored["map"].shape == stored["mask"].shape == (64, 64)
    assert stored["map"].dtype == stored["mask"].dtype == np.float32
    assert (out / "deep" / "1.png").stat().st_size > 1000
    # As after a kill: two complete lines and part of a third.
    text = (out / "explanations.jsonl").read_text().splitlines(keepends=True)
    (out / "explanations.jsonl").write_text("".join(text[:2]) + text[2][:20])
    assert finetune_words(place, *words) == 0
    assert "2 of 5 images are explained already" in capfd.readouterr().out
    again = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
    assert sorted(line["image"] for line in again) == sorted(line["image"] for line in lines)
    masks = {line["image"]: line["mask_mean"] for line in lines}
    assert all(line["mask_mean"] == pytest.approx(masks[line["image"]], abs=1e-3) for line in again)
    assert finetune_words(place, *words, "lr=0.01") == 2
    assert "lr=0.001, now 0.01" in capfd.readouterr().err
    assert finetune_words(place, *words, "target=1") == 2
    assert "target=predicted, now 1" in capfd.readouterr().err


def test_results_of_other_images_are_kept(place: Path, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(place / "good" / ("0.jpg" if name == "a" else "2.jpg"), tmp_path / name / "cat.jpg")
    assert finetune_words(place, f"images={tmp_path}/a/cat.jpg", f"out={tmp_path}/out") == 0
    first = (tmp_path / "out/cat.npz").read_bytes()
    assert finetune_words(place, f"images={tmp_path}/b/cat.jpg", f"out={tmp_path}/out") == 0
    assert (tmp_path / "out/cat.npz").read_bytes() == first
    assert len(list((tmp_path / "out").glob("cat_*.npz"))) == 1


def test_another_network_does_not_resume_in_the_same_folder(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    shutil.copytree(place / "checkpoint", tmp_path / "mine")
    words = [f"images={place}/good/0.jpg", f"out={tmp_path}/out", f"checkpoint={tmp_path}/mine"]
    assert finetune_words(place, *words) == 0
    tensors = tmp_path / "mine/explainer.safetensors"
    with safe_open(tensors, "pt") as stored:
        about = stored.metadata()
    save_file({name: value + 1 for name, value in load_file(tensors).items()}, tensors, metadata=about)
    assert finetune_words(place, *words) == 2
    assert "contains explanations made with explainer_fingerprint=" in capfd.readouterr().err


def test_a_run_does_not_resume_with_other_classifier_weights(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    weights = tmp_path / "weights.safetensors"
    shutil.copy(place / "weights.safetensors", weights)
    words = [f"data.images={place}/good", f"out={tmp_path}/run", f"classifier.weights={weights}"]
    assert status("train", *SMALL, *words) == 0
    save_file({name: value + 0.01 for name, value in load_file(weights).items()}, weights)
    assert status("train", *SMALL, *words) == 2
    assert "contains a run with other weights of resnet10t" in capfd.readouterr().err.splitlines()[-1]


def test_a_checkpoint_contains_the_class_names(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "names.txt").write_text("cat\ndog\nbird\nfish\n")
    monkeypatch.chdir(tmp_path)
    words = [f"data.images={place}/good", "out=run", "classifier.class_names=names.txt"]
    assert pretrain_words(place, *words) == 0
    assert pretrain_words(place, *words) == 0, "the same command resumes"
    assert not [record for record in caplog.records if record.name.startswith("lightning")], "its lines are not ours"
    (tmp_path / "names.txt").unlink()
    assert finetune_words(place, "checkpoint=run", f"images={place}/good/0.jpg", "target=bird", "out=out") == 0


def test_a_file_name_that_is_not_utf8(place: Path, tmp_path: Path):
    file = tmp_path / "in" / os.fsdecode(b"caf\xe9.jpg")
    file.parent.mkdir()
    shutil.copy(place / "good/0.jpg", file)
    words = [f"images={tmp_path}/in", f"out={tmp_path}/out"]
    assert finetune_words(place, *words) == 0
    line = json.loads((tmp_path / "out/explanations.jsonl").read_text())
    assert line["image"] == str(file)
    assert finetune_words(place, *words) == 0


@pytest.mark.parametrize("out", ["taken", "taken/deeper"])
def test_a_file_in_place_of_the_output_folder(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], out: str):
    (tmp_path / "taken").write_text("")
    assert finetune_words(place, f"images={place}/good/0.jpg", f"out={tmp_path}/{out}") == 1
    assert "cannot be written" in capfd.readouterr().err.splitlines()[-1]


def test_the_same_command_skips_the_same_images(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (images / "broken.jpg").write_bytes(b"")
    words = [f"images={images}", f"out={out}"]
    assert finetune_words(place, *words, "steps=0") == 2, "no image can be read"
    Image.open(place / "good" / "0.jpg").save(images / "good.png")
    for _ in range(2):  # the failed command left no results, so other settings are accepted
        capfd.readouterr()
        assert finetune_words(place, *words) == 0
        assert "skipped 1 file" in capfd.readouterr().out
    for word, expected in (("target=null", "target=None is not a valid class"), ("fill=null", "fill=None is unknown")):
        assert finetune_words(place, *words, word) == 2
        assert expected in capfd.readouterr().err


def test_a_full_disk_is_one_line_and_keeps_the_previous_checkpoint(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    import errno

    import ltx.pretraining.checkpoint_writer as checkpoint_writer

    save, saved = checkpoint_writer.save_checkpoint, []

    def full(folder: Path, *args: Any, **kwargs: Any) -> None:
        if saved:
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
        save(folder, *args, **kwargs)
        saved.append((folder / "explainer.safetensors").read_bytes())

    out = tmp_path / "run"
    words = [f"data.images={place}/good", f"out={out}", "trainer.max_steps=4", "trainer.checkpoint_every=2"]
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_writer, "save_checkpoint", full)
        assert pretrain_words(place, *words) == 1
    assert capfd.readouterr().err.strip().splitlines()[-1].endswith("No space left on device")
    assert (out / "explainer.safetensors").read_bytes() == saved[0]
    assert pretrain_words(place, *words, succeeds=True) == 0, "it resumes"


@pytest.mark.parametrize(("script", "key"), [("train.py", "objective.area.weight"), ("finetune.py", "select_by")])
def test_the_scripts_themselves(script: str, key: str):
    shown = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0
    assert key in shown.stdout
    wrong = subprocess.run([sys.executable, script, "sed=1"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")
    assert "seed" in wrong.stderr
    assert "Traceback" not in wrong.stderr
