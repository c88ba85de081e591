import importlib.util
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from ltx.cli import export as command
from ltx.cli.main import main
from ltx.export.comparing import Comparison, DifferentAnswersError
from ltx.export.exporting import metadata
from ltx.export.graph import ExplainerGraph, Weights
from ltx.export.settings import ExportConfig
from ltx.finetuning.settings import LoadedClassifierConfig
from ltx.runtime.errors import InputError
from tests.support.small_checkpoints import OTHER_HEAD, own_checkpoint


def run(command: str, *words: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main([command, *words])
    return int(exit.value.code or 0)


def test_mistakes_are_one_line_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, text in [
        (["out=a.pb"], "give FILE.onnx, FILE.pt2, or FOLDER/"),
        (["out=a.onnx", "runtime=b.tgz"], "is for pages"),
        (["out=a.onnx", "weights=int8"], "allowed: fp32, fp16, int16"),
        (["out=a.pt2", "checkpoint=nothing"], "nothing"),
    ]:
        assert run("export", *words) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "missing", "extra"),
    [
        (["export", "out=a.onnx"], "onnxruntime", "export"),
        (["export", "out=a/"], "onnx", "export"),
        (["demo"], "gradio", "demo"),
    ],
)
def test_a_missing_extra_is_named(
    words: list[str], missing: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == missing else find(name, *more))
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert f"{missing} is not installed; it belongs to the extra [{extra}]: pip install 'ltx[{extra}]'" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "refused", "tried"),
    [(None, [], ["fp16"]), (None, ["fp16"], ["fp16", "int16"]), ("fp16", ["fp16"], ["fp16"])],
)
def test_a_page_takes_the_first_small_weights_that_answer_as_pytorch_does(
    given: Weights | None, refused: list[str], tried: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def write_site(graph: ExplainerGraph, *more: object) -> Comparison:
        found.append(graph.weights)
        if graph.weights in refused:
            raise DifferentAnswersError("it differs")
        return Comparison(0, 0, 0, 1, 1)

    monkeypatch.setattr(command, "require", lambda *words: None)
    monkeypatch.setattr(command, "write_site", write_site)
    with pytest.raises(DifferentAnswersError) if tried[-1] in refused else nullcontext():
        command.export(ExportConfig(out=f"{tmp_path}/", weights=given))
    assert found == tried


def test_the_settings_of_the_classifier_are_those_of_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[dict[str, str]] = []

    def write_site(graph: ExplainerGraph, *more: object) -> Comparison:
        found.append(metadata(graph))
        return Comparison(0, 0, 0, 1, 1)

    monkeypatch.setattr(command, "require", lambda *words: None)
    monkeypatch.setattr(command, "write_site", write_site)
    config = ExportConfig(
        checkpoint=str(own_checkpoint(tmp_path / "checkpoint")),
        classifier=LoadedClassifierConfig(**OTHER_HEAD),
        out=f"{tmp_path}/",
    )
    with pytest.raises(InputError, match="if you trust it, set trust=true"):
        command.export(config)
    command.export(replace(config, trust=True))
    assert (found[0]["head"], json.loads(found[0]["class_names"])) == ("sigmoid", ["cat", "dog", "owl"])
