"""Pieces of an evaluation: interruption, ranks, and the names of pieces."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
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

KILLED_AT_THE_THIRD_PIECE = """
import os, signal, sys
from ltx.config.command_line import parse
from ltx.evaluation.pieces import Store
from ltx.evaluation.run import evaluate
from ltx.evaluation.settings import EvaluationConfig

save, saved = Store.save, []

def counted(store, path, piece):
    if len(saved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    saved.append(path)
    save(store, path, piece)

Store.save = counted
evaluate(parse(EvaluationConfig, sys.argv[1:], "evaluate", ""))
"""


def test_a_killed_run_resumes_to_the_same_bytes(place: Path, tmp_path: Path):
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
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_THIRD_PIECE, *words], env=environment, capture_output=True, timeout=300
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    partial = tmp_path / "killed" / "partial"
    finished = {file: file.stat().st_mtime_ns for file in partial.glob("*.npz")}
    assert len(finished) == 2
    assert not (tmp_path / "killed" / "scores.json").exists()
    evaluate(config)
    assert len(list(partial.glob("*.npz"))) == 18
    assert all(file.stat().st_mtime_ns == mtime for file, mtime in finished.items()), "finished work was repeated"
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


def test_two_ranks_write_the_same_scores_as_one(place: Path, tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = settings(place, tmp_path / "two", gallery=0)
    # A forked process cannot run backward passes after its parent has run some.
    multiprocessing.start_processes(on_a_rank, args=(config, port), nprocs=2, start_method="spawn")
    evaluate(replace(config, out=str(tmp_path / "one")))
    scores = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("two", "one")]
    # Each rank uses one thread, and rounding of sums depends on the number of threads.
    two, one = map(flat, scores)
    assert two.keys() == one.keys()
    for key, value in one.items():
        assert two[key] == (pytest.approx(value, abs=1e-3) if isinstance(value, float) else value), key


def flat(scores: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to dotted keys."""
    if not isinstance(scores, dict):
        return {prefix: scores}
    return {key: value for name, part in scores.items() for key, value in flat(part, f"{prefix}.{name}").items()}


def test_methods_with_different_images_are_not_compared(place: Path, tmp_path: Path):
    """This happens if one process can read a file and another cannot."""
    config = settings(place, tmp_path, methods=["random", "constant"], gallery=0)
    first = evaluate(config)
    odd = next((tmp_path / "partial").glob("00001-constant-*"))
    with np.load(odd) as stored:
        arrays = {name: stored[name] for name in stored.files}
    about = json.loads(arrays["about"].tobytes())
    about["names"] = [about["names"][0], "another.png"]
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(odd, **arrays)
    with pytest.raises(InputError, match="was read for one of random and constant but not for the other"):
        evaluate(config)
    assert not list((tmp_path / "partial").glob("00001-*"))
    assert evaluate(config) == first


def test_a_class_name_with_another_index_gives_another_piece(place: Path, tmp_path: Path):
    def named(*names: str) -> list[str]:
        classifier = replace(small_classifier(place), class_names=list(names))
        evaluate(settings(place, tmp_path, classifier=classifier, methods=["constant"], target="rust", gallery=0))
        rows = csv.DictReader((tmp_path / "per_image.csv").open())
        return [row["target"] for row in rows]

    assert named("a", "rust", "c", "d") == ["1"] * 6
    assert named("a", "b", "c", "rust") == ["3"] * 6


def test_images_that_change_during_the_evaluation(place: Path, tmp_path: Path):
    shutil.copytree(place / "images", tmp_path / "images")
    config = settings(place, tmp_path / "out", images=str(tmp_path / "images"), methods=["constant"], gallery=0)
    evaluation = build(config)
    work(evaluation)
    os.link(tmp_path / "images" / "0.png", tmp_path / "another name")
    assert write_report(evaluation)["n"] == 6, "the images as they were read"
    with pytest.raises(InputError, match=r"1 of 3 pieces, such as .* are missing"):
        write_report(build(config))
