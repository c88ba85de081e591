"""`ltx bench gpu` on a CPU with small models: every item, a failure, and the time limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx import InputError
from ltx.bench.gpu import explanation_speed, recipe, run, training_speed
from ltx.bench.gpu.processes import training_words as process_words
from ltx.bench.gpu.recipe import training_words as recipe_words
from ltx.bench.gpu.run import measure
from ltx.bench.gpu.session import Session
from ltx.bench.scale import Measured
from ltx.bench.settings import GPU_ITEMS, GPUBench
from ltx.bench.table import Table
from ltx.classifier.classifier import CPU_ROWS
from ltx.config.command_line import parse
from ltx.pretraining.settings import TrainConfig
from ltx.runtime.errors import PartialFailureError
from tests.support.small_inputs import write_photographs

TINY = ["models=[resnet10t]", "input_size=64", "device=cpu", "repeats=1", "checkpoint=null", "inr_checkpoint=null"]
TINY += ["counts=[1,2]", "steps=1", "process_steps=3", "recipe_steps=4", "recipe_batch=2", "val_limit=2"]


@pytest.fixture
def lines(tmp_path: Path):
    """`lines(*words)`: run the benchmark and read the lines of its table."""
    photographs = write_photographs(tmp_path / "photographs", (f"{i}.png" for i in range(6)), (70, 70), cells=(5, 5))

    def read(*words: str) -> list[dict[str, Any]]:
        measure(
            parse(
                GPUBench, [*TINY, "minutes=60", f"images={photographs}", f"out={tmp_path / 'out'}", *words], "bench", ""
            )
        )
        written: list[dict[str, Any]] = json.loads((tmp_path / "out" / "gpu.json").read_text())["lines"]
        assert not [line for line in written if "failed" in line["result"]], written
        return written

    return read


def test_the_device_is_compared_with_the_cpu(lines) -> None:
    results = {line["what"]: line for line in lines("items=[equality]")}
    for what in (
        "maps of gradcam",
        "maps of iia2",
        "maps of rise",
        "mask of UNet",
        "loss of UNet",
        "mask of INR, nested",
    ):
        line = results[f"{what}, resnet10t"]
        assert line["result"].startswith("equal"), line
        assert line["values"]["fp32"] <= 1e-4
        assert line["values"]["bf16"] >= line["values"]["fp32"]
    assert results["maps of gradcam, resnet10t"]["values"]["bf16"] > 0, "the device ran in bf16"


def test_a_difference_between_devices_is_reported(lines, monkeypatch: pytest.MonkeyPatch) -> None:
    from ltx.bench.gpu import equality

    attribute, calls = equality.attribute, []

    def drifting(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        return attribute(*arguments, **options) + (0.01 * torch.rand(64, 64) if len(calls) % 3 == 2 else 0)

    monkeypatch.setattr(equality, "attribute", drifting)
    monkeypatch.setattr(equality, "METHODS", {"gradcam": equality.METHODS["gradcam"]})
    line = next(line for line in lines("items=[equality]") if line["what"].startswith("maps of gradcam"))
    assert line["result"].startswith("DIFFERENT")


def test_training_and_explanations_are_timed(lines) -> None:
    results = {line["what"]: line for line in lines("items=[training,explanations]", "batch_size=2")}
    for precision in ("fp32", "bf16"):
        values = results[f"resnet10t, {precision}, 2 images per step"]["values"]
        assert values["images_per_second"] > 0
        assert 0 < values["classifier_share"] < 1
        assert values["loader_cores"] >= 1
    assert results["loader"]["values"]["images_per_second"] > 0
    for count in (1, 2):
        # Kept and removed pixels in one step.
        assert results[f"finetuning, {count} images at once, 1 steps"]["values"]["passes"] == 2
    assert results["gradcam, 2 images"]["values"]["passes"] == 1
    assert results["metrics of the ltx protocol, 2 images"]["values"]["passes"] == 20


def test_one_pass_is_timed_without_a_graph_and_the_bound_names_its_batch(
    lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = {}
    report = explanation_speed._report

    def reporting(session: Any, bound: Any, what: str, images: torch.Tensor, explain: Any) -> None:
        if what.startswith("explainer"):
            graphs[what] = explain(images).requires_grad
            report(session, bound, what, images, explain)

    monkeypatch.setattr(explanation_speed, "_report", reporting)
    results = {line["what"]: line["result"] for line in lines("items=[explanations]", "counts=[1]")}
    assert graphs == {"explainer, one pass, 1 images": False}
    for what in ("explainer, one pass, 1 images", "finetuning, 1 images at once, 1 steps"):
        assert results[what].endswith(f"x the time of these passes at {CPU_ROWS} rows")


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_share_of_the_matrix_rate_says_that_convolutions_use_another_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_gpu: bool
) -> None:
    monkeypatch.setattr(Session, "on_gpu", on_gpu)
    monkeypatch.setattr(Session, "attempt", lambda self, section, what, measurement: measurement())
    monkeypatch.setattr(training_speed, "matrix_rates", lambda session: {"fp32": 1.0, "bf16": 2.0})
    monkeypatch.setattr(training_speed, "loader_rate", lambda session: 100.0)
    monkeypatch.setattr(training_speed, "measure_step", lambda *case: Measured(10.0, 0.5, None, 1e10))
    table = Table(tmp_path, "gpu", {})
    training_speed.time_training(Session(parse(GPUBench, [*TINY], "bench", ""), torch.device("cpu"), table))
    said = {line.what.split(", ")[1]: "matrix rate without TF32" in line.result for line in table.lines}
    assert said == {"fp32": on_gpu, "bf16": False} | ({"bf16+compile": False} if on_gpu else {})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory"),
        (InputError("weights=a.safetensors is damaged"), "weights=a.safetensors is damaged"),
    ],
)
def test_a_failure_is_a_line_and_the_run_continues(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    reason: str,
) -> None:
    def broken(session: Any) -> None:
        raise error

    def fine(session: Any) -> None:
        session.table.add("training", "fine", "done")

    monkeypatch.setattr(run, "ITEMS", {"equality": [broken], "training": [fine]})
    with pytest.raises(PartialFailureError, match=f"1 measurement failed: equality, broken: {reason}"):
        measure(parse(GPUBench, [*TINY, "items=[equality,training]", f"out={tmp_path}"], "bench", ""))
    written = json.loads((tmp_path / "gpu.json").read_text())["lines"]
    assert [line["result"] for line in written] == [f"failed: {reason}", "done"]
    assert ("Traceback" in capsys.readouterr().err) == (not isinstance(error, InputError))


def test_the_time_limit_skips_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(session: Any) -> None:
        pytest.fail("there is no time for it")

    monkeypatch.setattr(run, "ITEMS", {"equality": [never]})
    measure(parse(GPUBench, [*TINY, "items=[equality]", "minutes=1e-9", f"out={tmp_path}"], "bench", ""))
    (line,) = json.loads((tmp_path / "gpu.json").read_text())["lines"]
    assert "skipped" in line["result"]


@pytest.mark.parametrize(
    ("word", "images"),
    [
        ("images=my photos/", "my photos/"),
        ("images=[my photos/, 'a,b', \"it's\"]", ["my photos/", "a,b", "it's"]),
        ("train_images=~/my photos", str(Path.home() / "my photos")),
    ],
)
def test_the_trainings_have_the_same_images(tmp_path: Path, word: str, images: object) -> None:
    session = Session(parse(GPUBench, [word], "bench", ""), torch.device("cpu"), Table(tmp_path, "gpu", {}))
    assert parse(TrainConfig, recipe_words(session, tmp_path, 30), "ltx train", "").data.images == images
    if not word.startswith("train_images"):
        assert parse(TrainConfig, process_words(session, 1, tmp_path), "ltx train", "").data.images == images


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_commands_of_the_trainings_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_gpu: bool) -> None:
    monkeypatch.setattr(Session, "on_gpu", on_gpu)
    config = parse(GPUBench, ["recipe=configs/train/lite0.yaml", "train_images=photographs", "images=a,b"], "bench", "")
    session = Session(config, torch.device("cpu"), Table(tmp_path, "gpu", {}))
    last = parse(TrainConfig, recipe_words(session, tmp_path, 30), "ltx train", "")
    assert (last.trainer.precision, last.trainer.max_steps) == ("bf16" if on_gpu else "fp32", 30)
    for processes in (1, 2):
        training = parse(TrainConfig, process_words(session, processes, tmp_path), "ltx train", "")
        assert training.trainer.nodes * training.data.batch_size == 8
        assert training.trainer.accelerator == ("gpu" if on_gpu else "cpu")


def test_the_recipe_names_what_its_evaluation_skipped_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped, left_out = {"image": "cut.jpg", "reason": "cannot be read"}, {"gradcam": "no feature map"}
    monkeypatch.setattr(recipe, "_train", lambda session, out, steps: out)
    monkeypatch.setattr(
        recipe,
        "evaluate",
        lambda config: {"skipped_images": [skipped], "left_out_methods": left_out, "methods": {}, "n": 1},
    )
    table = Table(tmp_path, "gpu", {})
    recipe.train_recipe(Session(parse(GPUBench, [*TINY, f"out={tmp_path}"], "bench", ""), torch.device("cpu"), table))
    assert [(line.what, line.result) for line in table.lines][1:] == [
        ("skipped cut.jpg", "cannot be read"),
        ("scores of gradcam", "left out: no feature map"),
    ]


def test_each_item_has_its_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = {}
    items = {name: [lambda session, name=name: left.update({name: session.seconds_left})] for name in GPU_ITEMS}
    monkeypatch.setattr(run, "ITEMS", items)
    measure(parse(GPUBench, [*TINY, "minutes=10", f"out={tmp_path}"], "bench", ""))
    assert left["equality"] == pytest.approx(600 * run.SHARES["equality"], abs=5)
    assert left["recipe"] == pytest.approx(600, abs=30), "what other items did not need is left for the last one"


@pytest.mark.parametrize(
    ("word", "text"), [("items=[speed]", "'speed' is not a valid item"), ("minutes=0", "minutes=0")]
)
def test_invalid_settings_raise_an_error(tmp_path: Path, word: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        measure(parse(GPUBench, [*TINY, word, f"out={tmp_path}"], "bench", ""))


@pytest.mark.slow
def test_processes_have_one_curve_and_the_recipe_has_scores(lines) -> None:
    results = {line["what"]: line for line in lines("items=[processes,recipe]")}
    assert len(results["torchrun with 2 processes"]["values"]["losses"]) == 3
    assert results["one process and two"]["result"].startswith("the same curve")
    assert results["scores of trained, 2 images"]["values"]["NEG-POS"]["mean"] is not None
