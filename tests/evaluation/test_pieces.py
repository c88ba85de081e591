"""The pieces of an evaluation: interruptions, ranks, and what makes a piece another one."""

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
from torch import multiprocessing

from ltx import InputError
from ltx.evaluation.plan import build
from ltx.evaluation.run import evaluate, work
from ltx.evaluation.score_files import write_report
from ltx.evaluation.settings import EvaluationConfig
from tests.support.small_evaluations import settings, small_classifier


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
        cwd=Path(__file__).parent.parent.parent,
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


def test_a_name_that_means_another_class_is_another_piece(place: Path, tmp_path: Path):
    def named(*names: str) -> list[str]:
        classifier = replace(small_classifier(place), class_names=list(names))
        evaluate(settings(place, tmp_path, classifier=classifier, methods=["constant"], target="rust", gallery=0))
        rows = csv.DictReader((tmp_path / "per_image.csv").open())
        return [row["target"] for row in rows]

    assert named("a", "rust", "c", "d") == ["1"] * 6
    assert named("a", "b", "c", "rust") == ["3"] * 6


def test_images_that_are_touched_in_the_meantime(place: Path, tmp_path: Path):
    shutil.copytree(place / "images", tmp_path / "images")
    config = settings(place, tmp_path / "out", images=str(tmp_path / "images"), methods=["constant"], gallery=0)
    evaluation = build(config)
    work(evaluation)
    os.link(tmp_path / "images" / "0.png", tmp_path / "another name")
    assert write_report(evaluation)["n"] == 6, "of what was read"
    with pytest.raises(InputError, match=r"1 of 3 pieces, such as .* are not there"):
        write_report(build(config))
