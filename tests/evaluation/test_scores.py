"""Complete evaluations: method specifications, and the files that are written."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ltx import Classifier, InputError
from ltx.evaluation.methods import parse_name
from ltx.evaluation.plan import build
from ltx.evaluation.run import evaluate
from tests.support.small_evaluations import settings, small_classifier

METRICS = ["NEG-POS", "INS-DEL", "POS", "NEG", "DEL", "INS", "ADP", "PIC"]


# -- written files -----------------------------------------------------------------------------------------------


def test_score_files_agree_with_each_other(place: Path, tmp_path: Path):
    scores = evaluate(settings(place, tmp_path))
    assert scores == json.loads((tmp_path / "scores.json").read_text())
    assert list(scores)[:5] == ["protocol", "classifier", "n", "skipped", "methods"]
    assert (scores["protocol"], scores["classifier"], scores["n"], scores["skipped"]) == ("ltx", "resnet10t", 6, 0)
    assert list(scores["methods"]) == ["gradcam", "random", "constant"]
    rows = list(csv.DictReader((tmp_path / "per_image.csv").open()))
    assert len(rows) == 6 * 3
    for method, metrics in scores["methods"].items():
        assert list(metrics) == METRICS
        for key, score in metrics.items():
            assert score["low"] <= score["mean"] <= score["high"]
            mean = np.mean([float(row[key]) for row in rows if row["method"] == method])
            assert score["mean"] == pytest.approx(mean, abs=1e-3)
    difference = scores["differences"]["POS"]["random - constant"]
    means = [scores["methods"][method]["POS"]["mean"] for method in ("random", "constant")]
    assert difference["mean"] == pytest.approx(means[0] - means[1], abs=1e-5)
    table = (tmp_path / "scores.md").read_text()
    assert "| gradcam | **" in table, "the only method that competes must be the best"
    assert "POS ↓" in table
    assert "random (control)" in table
    assert "n = 6 images" in table
    for name in ("curves.png", "gallery.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
    other = settings(place, tmp_path, methods=["gradcam"], protocol="sensitivity", gallery=0)
    evaluate(replace(other, limit=2))
    assert not (tmp_path / "curves.png").exists(), "left over from other scores"
    assert not (tmp_path / "gallery.png").exists()


def test_constant_maps_are_counted_and_named(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def third_is_constant(method: str, classifier: Classifier, images: torch.Tensor, *_: object, **__: object):
        maps = torch.rand(len(images), 1, *images.shape[-2:], generator=torch.Generator().manual_seed(0))
        return torch.where((images[:, :1] == third[None, :1]).all(), torch.zeros_like(maps), maps)

    build_config = settings(place, tmp_path, methods=["gradcam", "constant"], batch_size=1)
    third = build(build_config).samples.load(2).images[0]
    monkeypatch.setattr("ltx.evaluation.methods.attribute", third_is_constant)
    scores = evaluate(build_config)
    assert scores is not None
    names = list(dict.fromkeys(row["image"] for row in csv.DictReader((tmp_path / "per_image.csv").open())))
    assert scores["constant_maps"] == {"gradcam": [names[2]]}, "the control is constant by design"
    assert f"- gradcam: 1 of 6 images: {names[2]}" in (tmp_path / "scores.md").read_text()


def test_the_second_classifier_is_reported(place: Path, tmp_path: Path):
    config = settings(
        place, tmp_path, methods=["random"], protocol="transfer", second=small_classifier(place), gallery=0
    )
    weights = str(place / "weights.safetensors")
    assert evaluate(config)["second"] == {"classifier": "resnet10t", "weights": weights, "precision": "fp32"}
    assert f"Second classifier: resnet10t, {weights} weights." in (tmp_path / "scores.md").read_text()


def test_results_depend_on_the_settings_and_the_seed_only(place: Path, tmp_path: Path):
    def scores(seed: int, out: str) -> bytes:
        evaluate(settings(place, tmp_path / out, methods=["random"], seed=seed, gallery=0))
        return (tmp_path / out / "scores.json").read_bytes()

    assert scores(0, "a") == scores(0, "b")
    assert json.loads(scores(1, "c"))["methods"] != json.loads(scores(0, "a"))["methods"]


def test_batches_do_not_change_scores(place: Path, tmp_path: Path):
    results = [
        evaluate(settings(place, tmp_path / f"{size}", batch_size=size, max_batch=limit, gallery=0))
        for size, limit in ((1, 3), (6, 64))
    ]
    for method, scores in results[0]["methods"].items():
        for key, score in scores.items():
            assert score["mean"] == pytest.approx(results[1]["methods"][method][key]["mean"], abs=2e-2)


def test_number_of_forward_passes(place: Path, tmp_path: Path, monkeypatch):
    seen = []
    forward = Classifier.__call__
    monkeypatch.setattr(Classifier, "__call__", lambda self, images: seen.append(len(images)) or forward(self, images))
    evaluate(settings(place, tmp_path, methods=["random", "constant", "gaussian"], gallery=0))
    assert sum(seen) == 6 * (1 + 3 * (9 + 9 + 1)), "one unmasked pass for all methods, then 9 + 9 + 1 each"


def test_equal_methods_differ_by_exactly_zero(place: Path, tmp_path: Path):
    scores = evaluate(settings(place, tmp_path, methods=["a=random", "b=random"], gallery=0))
    for pairs in scores["differences"].values():
        assert pairs == {"a - b": {"mean": 0.0, "low": 0.0, "high": 0.0}}


# -- methods -------------------------------------------------------------------------------------------------------


def test_method_specifications():
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
    assert -1 <= scores["methods"]["plain"]["Cascade"]["mean"] < 1, "the explainer reads the randomised classifier"


def test_unsupported_methods_are_left_out_with_a_reason(place: Path, tmp_path: Path):
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
    with pytest.raises(InputError, match="contains only the masks of masks="):
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
    explained = {row["image"].split(" ")[-1] for row in csv.DictReader((tmp_path / "per_image.csv").open())}
    assert f"resamples of the {len(explained)} photographs explained" in (tmp_path / "scores.md").read_text()
