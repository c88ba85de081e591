"""An evaluation from files to files: methods by name, ranks, interruptions, bad input, and what is written."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_inputs import write_weights
from torch import multiprocessing

from ltx import Classifier, InputError
from ltx.checkpoints import save_checkpoint
from ltx.config import ClassifierConfig
from ltx.evaluation import EvaluationConfig, evaluate
from ltx.evaluation.figures import shortened
from ltx.evaluation.methods import CONTROLS, parse_name
from ltx.evaluation.plan import build
from ltx.explainers import ExplainerConfig

METRICS = ["POS", "NEG", "DEL", "INS", "ADP", "PIC"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Weights of a small classifier, six photographs with labels and masks, and a checkpoint."""
    folder = tmp_path_factory.mktemp("place")
    write_weights(folder)
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    rows = ["file,class_index"]
    for index in range(6):
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((90, 70), Image.Resampling.BICUBIC).save(folder / "images" / f"{index}.png")
        mask = np.zeros((70, 90), np.uint8)
        mask[10:40, 20 + 5 * index : 60] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
        rows.append(f"images/{index}.png,{index % 4}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    classifier = small_classifier(folder).build()
    settings = ExplainerConfig(name="unet", width=4)
    save_checkpoint(folder / "checkpoint", settings.build(classifier), {"explainer": {"name": "unet", "width": 4}})
    return folder


def small_classifier(place: Path) -> ClassifierConfig:
    return ClassifierConfig("resnet10t", str(place / "weights.safetensors"), num_classes=4, input_size=64)


def settings(place: Path, out: Path, **changes: object) -> EvaluationConfig:
    config = EvaluationConfig(
        classifier=small_classifier(place),
        methods=["gradcam", "random", "constant"],
        images=str(place / "images"),
        batch_size=2,
        resamples=200,
        gallery=3,
        device="cpu",
        out=str(out),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


# -- what is written -----------------------------------------------------------------------------------------------


def test_scores_files_and_their_agreement(place: Path, tmp_path: Path):
    scores = evaluate(settings(place, tmp_path))
    assert scores == json.loads((tmp_path / "scores.json").read_text())
    assert list(scores)[:5] == ["protocol", "classifier", "n", "skipped", "methods"]
    assert (scores["protocol"], scores["classifier"], scores["n"], scores["skipped"]) == ("ltx", "resnet10t", 6, 0)
    assert list(scores["methods"]) == ["gradcam", "random", "constant"]
    rows = list(csv.DictReader((tmp_path / "per_image.csv").open()))
    assert len(rows) == 6 * 3
    for method, found in scores["methods"].items():
        assert list(found) == METRICS
        for key, score in found.items():
            assert score["low"] <= score["mean"] <= score["high"]
            mean = np.mean([float(row[key]) for row in rows if row["method"] == method])
            assert score["mean"] == pytest.approx(mean, abs=1e-3)
    difference = scores["differences"]["POS"]["random - constant"]
    means = [scores["methods"][method]["POS"]["mean"] for method in ("random", "constant")]
    assert difference["mean"] == pytest.approx(means[0] - means[1], abs=1e-5)
    table = (tmp_path / "scores.md").read_text()
    assert "| gradcam | **" in table, "the only method that competes is the best"
    assert "POS ↓" in table
    assert "random (control)" in table
    assert "n = 6 images" in table
    for name in ("curves.png", "gallery.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
    other = settings(place, tmp_path, methods=["gradcam"], protocol="sensitivity", gallery=0)
    evaluate(replace(other, limit=2))
    assert not (tmp_path / "curves.png").exists(), "of other scores"
    assert not (tmp_path / "gallery.png").exists()


def test_the_same_settings_give_the_same_bytes_and_another_seed_other_ones(place: Path, tmp_path: Path):
    def scores(seed: int, out: str) -> bytes:
        evaluate(settings(place, tmp_path / out, methods=["random"], seed=seed, gallery=0))
        return (tmp_path / out / "scores.json").read_bytes()

    assert scores(0, "a") == scores(0, "b")
    assert json.loads(scores(1, "c"))["methods"] != json.loads(scores(0, "a"))["methods"]


def test_batches_do_not_change_scores(place: Path, tmp_path: Path):
    found = [
        evaluate(settings(place, tmp_path / f"{size}", batch_size=size, max_batch=limit, gallery=0))
        for size, limit in ((1, 3), (6, 64))
    ]
    for method, scores in found[0]["methods"].items():
        for key, score in scores.items():
            assert score["mean"] == pytest.approx(found[1]["methods"][method][key]["mean"], abs=2e-2)


def test_the_least_forwards(place: Path, tmp_path: Path, monkeypatch):
    seen = []
    forward = Classifier.__call__
    monkeypatch.setattr(Classifier, "__call__", lambda self, images: seen.append(len(images)) or forward(self, images))
    evaluate(settings(place, tmp_path, methods=["random", "constant", "gaussian"], gallery=0))
    assert sum(seen) == 6 * (1 + 3 * (9 + 9 + 1)), "clean once for all methods; then 9 + 9 + 1 for each"


def test_equal_methods_differ_by_exactly_nothing(place: Path, tmp_path: Path):
    scores = evaluate(settings(place, tmp_path, methods=["a=random", "b=random"], gallery=0))
    for pairs in scores["differences"].values():
        assert pairs == {"a - b": {"mean": 0.0, "low": 0.0, "high": 0.0}}


# -- methods -------------------------------------------------------------------------------------------------------


def test_method_names():
    plain = parse_name("gae")
    assert (plain.label, plain.name, plain.options) == ("gae", "gae", {})
    tuned = parse_name("tuned=ltx:runs/a b@steps=25@lr=1e-4@select_by=positive")
    assert (tuned.label, tuned.name) == ("tuned", "ltx:runs/a b")
    assert tuned.options == {"steps": 25, "lr": 1e-4, "select_by": "positive"}
    assert parse_name("iia@variant=released").label == "iia@variant=released"
    for bad in ("gae@steps", "gae@=3", "gae@a=1@a=2"):
        with pytest.raises(InputError, match="methods"):
            parse_name(bad)


def test_explainers_with_finetuning_and_selection(place: Path, tmp_path: Path):
    path = place / "checkpoint"
    methods = [f"plain=ltx:{path}", f"tuned=ltx:{path}@steps=2", f"chosen=ltx:{path}@steps=2@select_by=positive"]
    scores = evaluate(settings(place, tmp_path, methods=methods, protocol="ltx+sensitivity", limit=2))
    assert list(scores["methods"]) == ["plain", "tuned", "chosen"]
    assert scores["methods"]["plain"] != scores["methods"]["tuned"]
    assert scores["selected_by"] == {"chosen": "positive"}
    assert "chosen †" in (tmp_path / "scores.md").read_text()
    assert -1 <= scores["methods"]["plain"]["Cascade"]["mean"] < 1, "the explainer follows the randomised classifier"


def test_methods_that_do_not_fit_are_left_out_with_a_reason(place: Path, tmp_path: Path):
    scores = evaluate(settings(place, tmp_path, methods=["attention_rollout", "ground_truth", "random"], gallery=0))
    assert set(scores["methods"]) == {"random"}
    assert "attention" in scores["left_out_methods"]["attention_rollout"]
    assert "masks=FOLDER" in scores["left_out_methods"]["ground_truth"]
    assert "## Methods left out" in (tmp_path / "scores.md").read_text()


# -- masks, mosaics, labels ----------------------------------------------------------------------------------------


def test_localisation_and_its_upper_bound(place: Path, tmp_path: Path):
    config = settings(
        place, tmp_path, methods=["ground_truth", "constant"], protocol="localisation", masks=str(place / "masks")
    )
    scores = evaluate(replace(config, target="label"))
    truth = scores["methods"]["ground_truth"]
    assert {key: truth[key]["mean"] for key in ("PixAcc", "mIoU", "AP", "F1", "Pointing", "Energy")} == dict.fromkeys(
        ("PixAcc", "mIoU", "AP", "F1", "Pointing", "Energy"), 100.0
    )
    assert scores["methods"]["constant"]["F1"]["mean"] == 0
    rows = list(csv.DictReader((tmp_path / "per_image.csv").open()))
    assert [int(row["target"]) for row in rows[::2]] == [0, 1, 2, 3, 0, 1]


def test_results_and_masks_in_the_folder_of_the_photographs_are_not_evaluated(place: Path, tmp_path: Path):
    shutil.copytree(place / "images", tmp_path / "images")
    shutil.copytree(place / "masks", tmp_path / "images/masks")
    config = settings(tmp_path, tmp_path / "images/results", classifier=small_classifier(place), gallery=1, limit=None)
    config = replace(config, protocol="localisation", masks=str(tmp_path / "images/masks"))
    first = evaluate(config)
    assert (first["n"], first["skipped"]) == (6, 0)
    assert (tmp_path / "images/results/gallery.png").is_file()
    assert evaluate(config) == first
    with pytest.raises(InputError, match="are the masks of masks="):
        build(replace(config, images=str(tmp_path / "images/masks")))
    with pytest.raises(InputError, match="is where the images are; choose another folder for the results"):
        build(replace(config, out=str(tmp_path)))


def test_max_batch_bounds_explainers_too(place: Path, tmp_path: Path, monkeypatch):
    sizes, call = [], Classifier.logits_and_features

    def counted(self, images, stages):
        sizes.append(len(images))
        return call(self, images, stages)

    monkeypatch.setattr(Classifier, "logits_and_features", counted)
    path = place / "checkpoint"
    methods = [f"plain=ltx:{path}", f"tuned=ltx:{path}@steps=1"]
    evaluate(settings(place, tmp_path, methods=methods, batch_size=4, max_batch=2, limit=4, gallery=0))
    assert sizes == [2, 2, 2, 2]


def test_mosaics(place: Path, tmp_path: Path, monkeypatch):
    # The untrained classifier predicts one class for all; the first pixel of each photograph stands for it here.
    def predict(self, images):
        shade = (images[:, 0, 0, 0] * 255).round().long() % 4
        return torch.nn.functional.one_hot(shade, 4).float() + 0 * images.sum((1, 2, 3))[:, None]

    monkeypatch.setattr(Classifier, "__call__", predict)
    config = settings(place, tmp_path, methods=["constant", "gaussian"], protocol="mosaic", mosaics=5)
    scores = evaluate(config)
    assert scores["n"] == 5
    assert scores["target"] == "the class of one cell"
    assert scores["methods"]["constant"]["GridPG"]["mean"] == pytest.approx(25.0)
    assert scores["methods"]["constant"]["GridAP"]["mean"] == pytest.approx(25.0)


# -- interruptions and ranks ---------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_to_the_same_bytes(place: Path, tmp_path: Path):
    config = settings(place, tmp_path / "killed", methods=["layercam", "gradcam", "random"], batch_size=1)
    words = [
        "classifier.name=resnet10t",
        f"classifier.weights={place}/weights.safetensors",
        "classifier.num_classes=4",
        "classifier.input_size=64",
        f"images={place}/images",
        "methods=[layercam,gradcam,random]",
        "batch_size=1",
        "resamples=200",
        "gallery=3",
        "device=cpu",
        f"out={tmp_path}/killed",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    started = subprocess.Popen(
        [sys.executable, "-m", "ltx.evaluate", *words],
        env=environment,
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.PIPE,
    )
    partial = tmp_path / "killed" / "partial"
    deadline = time.monotonic() + 300
    while len(list(partial.glob("*.npz"))) < 2:
        assert started.poll() is None, started.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    finished = {file: file.stat().st_mtime_ns for file in partial.glob("*.npz")}
    assert 2 <= len(finished) < 18, "it was not killed in the middle"
    assert not (tmp_path / "killed" / "scores.json").exists()
    evaluate(config)
    assert len(list(partial.glob("*.npz"))) == 18
    assert all(file.stat().st_mtime_ns == then for file, then in finished.items()), "finished work was done again"
    evaluate(replace(config, out=str(tmp_path / "whole")))
    for name in ("scores.json", "per_image.csv", "scores.md"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_settings_do_not_reuse_pieces(place: Path, tmp_path: Path):
    for seed in (0, 1):
        evaluate(settings(place, tmp_path, methods=["random"], seed=seed, gallery=0))
    assert len(list((tmp_path / "partial").glob("*.npz"))) == 2 * 3


def on_a_rank(rank: int, config: EvaluationConfig, port: int):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    assert (evaluate(config) is None) == (rank == 1)


def test_two_ranks_write_what_one_does(place: Path, tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = settings(place, tmp_path / "two", gallery=0)
    multiprocessing.start_processes(on_a_rank, args=(config, port), nprocs=2, start_method="fork")
    evaluate(replace(config, out=str(tmp_path / "one")))
    found = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("two", "one")]
    # A forked rank runs on one thread, and a sum's rounding depends on the number of threads.
    two, one = (flat(scores) for scores in found)
    assert two.keys() == one.keys()
    for key, value in one.items():
        assert two[key] == (pytest.approx(value, abs=1e-3) if isinstance(value, float) else value), key


def flat(scores: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted keys."""
    if not isinstance(scores, dict):
        return {prefix: scores}
    return {key: value for name, part in scores.items() for key, value in flat(part, f"{prefix}.{name}").items()}


# -- bad input -----------------------------------------------------------------------------------------------------


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


def test_a_nan_map_is_refused_with_method_and_image(place: Path, tmp_path: Path, monkeypatch):
    def broken(classifier, images, targets, batch):
        maps = torch.rand(len(images), 1, 64, 64)
        maps[-1, 0, 3, 3] = float("nan")
        return maps

    monkeypatch.setitem(CONTROLS, "constant", broken)
    with pytest.raises(InputError, match=r"method constant: the map of image .*1\.png holds NaN"):
        evaluate(settings(place, tmp_path, methods=["constant"]))


def test_methods_that_saw_other_images_are_not_compared(place: Path, tmp_path: Path):
    """As where one process could read a file and the other could not."""
    config = settings(place, tmp_path, methods=["random", "constant"], gallery=0)
    first = evaluate(config)
    odd = next((tmp_path / "partial").glob("00001-constant-*"))
    with np.load(odd) as stored:
        arrays = {name: stored[name] for name in stored.files}
    about = json.loads(arrays["about"].tobytes())
    about["names"] = [about["names"][0], "another.png"]
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(odd, **arrays)
    with pytest.raises(InputError, match="was read for one of random and constant and not for the other"):
        evaluate(config)
    assert not list((tmp_path / "partial").glob("00001-*"))
    assert evaluate(config) == first


def test_one_image_says_nothing_of_others(place: Path, tmp_path: Path):
    evaluate(settings(place, tmp_path, methods=["gradcam", "gaussian"], limit=1, gallery=0))
    assert " *" not in (tmp_path / "scores.md").read_text().split("## Metrics")[0].replace("**", "")


def test_long_names_differ_in_figures():
    names = [f"ltx:checkpoints/tf_efficientnet_lite0{end}@steps=25" for end in ("", "_inr")]
    assert len({shortened(name, 40) for name in names}) == 2
    assert all(len(shortened(name, 30)) == 30 for name in names)
    assert shortened("gradcam", 30) == "gradcam"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"protocol": "ltxx"}, r"protocol='ltxx' is unknown; did you mean ltx"),
        ({"protocol": "ltx+ltx"}, "twice"),
        ({"protocol": "mosaic+localisation"}, "no object masks"),
        ({"protocol": "localisation"}, "masks=FOLDER"),
        ({"protocol": "transfer"}, r"second\.name=MODEL"),
        ({"masks": "/nowhere"}, "masks=/nowhere is no folder"),
        ({"methods": []}, "empty list"),
        ({"methods": ["gradcamm"]}, "did you mean gradcam"),
        ({"methods": ["gradcam", "gradcam"]}, "twice"),
        ({"methods": ["iia2@variant=released,steps=5"]}, "join them by @"),
        ({"methods": ["iia2@variant=released", "steps=5"]}, "@option=value@option=value"),
        ({"methods": ["gradcam@layr=2"]}, "no option 'layr'"),
        ({"methods": ["random@seed=2"]}, "no option 'seed'"),
        ({"methods": ["integrated_gradients@steps=half"]}, "steps='half' is no whole number"),
        ({"methods": ["PLACE@steps=five"]}, "steps='five' is no whole number"),
        ({"methods": ["PLACE@steps=2@lr=fast"]}, "lr='fast' is no number"),
        ({"methods": ["PLACE@select_by=positive"]}, "options take steps, as @steps=25"),
        ({"protocol": "mosaic", "target": "3"}, "target=3 does not go with protocol=mosaic"),
        ({"seed": -1}, "seed=-1; give 0 or more"),
        ({"methods": ["ltx:/nowhere"]}, "/nowhere holds no explainer.safetensors"),
        ({"methods": ["gae"]}, "none of them works here"),
        ({"images": "/nowhere"}, "/nowhere does not exist"),
        ({"target": "zebra"}, "zebra"),
        ({"target": "label", "labels": "/nowhere.csv"}, "/nowhere.csv does not exist"),
        ({"max_batch": 0}, "max_batch=0; give 1 or more"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_one_line_for_each_mistake(place: Path, tmp_path: Path, changes, text):
    if "methods" in changes:
        changes = {"methods": [name.replace("PLACE", f"ltx:{place}/checkpoint") for name in changes["methods"]]}
    with pytest.raises(InputError, match=text) as error:
        build(settings(place, tmp_path, **changes))
    assert "\n" not in str(error.value)
