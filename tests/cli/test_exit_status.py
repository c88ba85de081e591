"""Partly failed commands, closed pipes and home folders."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ltx.cli.main import BENCHMARKS, COMMANDS, main
from ltx.config.command_line import parse
from ltx.config.options import keys
from ltx.data.shards.settings import MakeConfig
from ltx.pretraining.settings import TrainConfig
from ltx.report.settings import ReportConfig
from tests.support.small_inputs import close_folder, write_photographs
from tests.support.tar_files import jpeg, write_tar

SMALL = ["classifier.name=resnet10t", "classifier.weights=random", "classifier.num_classes=4", "device=cpu"]
ATTRIBUTE = ["attribute", "method=gradcam", *SMALL, "classifier.input_size=64"]


def status(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def images(out: Path) -> list[str]:
    return [json.loads(line)["image"] for line in (out / "explanations.jsonl").read_text().splitlines()]


# -- one bad source among good ones --------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Two good shards, a truncated one, and one that is not a tar file."""
    for name in ("good", "good2"):
        write_tar(tmp_path / f"{name}.tar", [(f"{name}.jpg", jpeg())])
    write_tar(tmp_path / "truncated.tar", ((f"{number}.jpg", jpeg()) for number in range(3)))
    content = (tmp_path / "truncated.tar").read_bytes()
    (tmp_path / "truncated.tar").write_bytes(content[:2600])
    (tmp_path / "junk.tar").write_bytes(b"junk" * 500)
    return tmp_path


@pytest.mark.parametrize("bad", ["truncated.tar", "junk.tar", "missing.tar"])
def test_a_bad_shard_does_not_stop_the_good_ones(sources: Path, capsys: pytest.CaptureFixture[str], bad: str) -> None:
    spec = ",".join(str(sources / name) for name in ("good.tar", bad, "good2.tar"))
    assert status(*ATTRIBUTE, f"images=[{spec}]", f"out={sources}/out") == 3
    explained = images(sources / "out")
    assert {f"{sources}/good.tar/good.jpg", f"{sources}/good2.tar/good2.jpg"} <= set(explained)
    assert [name for name in explained if "junk" in name or "missing" in name] == []
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("partly failed: 1 source could not be used: ")
    assert bad in last
    assert status(*ATTRIBUTE, f"images=[{spec}]", f"out={sources}/out") == 3, "the same command says so again"
    assert images(sources / "out") == explained


def test_a_bad_folder_or_file_does_not_stop_the_good_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path / "good", ["1.jpg"], (20, 20))
    (tmp_path / "bad.jpg").write_bytes(b"")
    spec = ",".join(str(tmp_path / name) for name in ("good", "nowhere", "bad.jpg"))
    assert status(*ATTRIBUTE, f"images=[{spec}]", f"out={tmp_path}/out") == 3
    assert images(tmp_path / "out") == [f"{tmp_path}/good/1.jpg"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("partly failed: 2 sources could not be used: ")
    assert "nowhere does not exist" in last
    assert "bad.jpg is empty" in last


def test_a_bad_shard_among_counted_ones(sources: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = ",".join(str(sources / name) for name in ("good.tar", "junk.tar"))
    assert status("shards", f"shards=[{spec}]", f"out={sources}/out") == 3
    manifest = json.loads((sources / "out/manifest.json").read_text())
    assert [shard["samples"] for shard in manifest["shards"]] == [1, 0]
    assert "junk.tar cannot be read: it is not a tar file" in manifest["shards"][1]["damage"]
    assert capsys.readouterr().err.splitlines()[-1].startswith("partly failed: 1 source")


def test_files_left_out_of_shards_are_named_after_a_resumption_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photographs(tmp_path / "in", ["1.jpg", "2.jpg"], (20, 20))
    (tmp_path / "in/broken.jpg").write_bytes(b"")
    (tmp_path / "in/notes.txt").touch()
    words = ["shards", f"images={tmp_path}/in", f"out={tmp_path}/out"]
    for _ in range(2):
        assert status(*words) == 0
        told = capsys.readouterr().out
        assert "broken.jpg is empty" in told
        assert "left out 1 file that is not an image by its suffix: notes.txt" in told
    skipped = json.loads((tmp_path / "out/manifest.json").read_text())["skipped"]
    assert [Path(entry["file"]).name for entry in skipped] == ["broken.jpg"]


def test_files_left_out_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path / "in", ["1.jpg"], (20, 20))
    (tmp_path / "in/notes.txt").touch()
    assert status(*ATTRIBUTE, f"images={tmp_path}/in", f"out={tmp_path}/out") == 0
    assert "left out 1 file that is not an image by its suffix: notes.txt" in capsys.readouterr().out


@pytest.mark.parametrize("words", [ATTRIBUTE, ["shards"]], ids=["attribute", "shards"])
def test_a_folder_inside_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Such as `lost+found` where a disk is mounted."""
    closed = close_folder(write_photographs(tmp_path / "in", ["1.jpg"], (20, 20)) / "lost+found", monkeypatch)
    assert status(*words, f"images={tmp_path}/in", f"out={tmp_path}/out") == 0
    assert f"1 folder cannot be listed: {closed} (Permission denied)" in capsys.readouterr().out


# -- pipes ---------------------------------------------------------------------------------------------------------


def piped(words: list[str], reads: int, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command whose reader closes the pipe after `reads` bytes; returns status and stderr."""
    job = subprocess.Popen(
        [sys.executable, "-m", "ltx", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    assert job.stdout is not None
    assert job.stderr is not None
    if reads:
        job.stdout.read(reads)
    job.stdout.close()
    err = job.stderr.read().decode()
    return job.wait(timeout=120), err


@pytest.mark.parametrize("words", [["evaluate", "--help"], ["train", "--help"], ["--help"], ["bench", "--help"]])
@pytest.mark.parametrize("reads", [0, 20])
def test_help_into_a_closed_pipe_ends_quietly(words: list[str], reads: int) -> None:
    code, err = piped(words, reads)
    assert err == ""
    assert code in (0, 141)  # 0: all of it fitted into the pipe before it was closed


def test_a_command_into_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    write_photographs(tmp_path / "in", ["1.jpg"], (20, 20))
    code, err = piped([*ATTRIBUTE, f"images={tmp_path}/in", f"out={tmp_path}/out"], 0)
    assert "Traceback" not in err
    assert "Error" not in err
    assert code == 141
    assert images(tmp_path / "out") == [f"{tmp_path}/in/1.jpg"], "nothing is lost"


# -- the home folder -----------------------------------------------------------------------------------------------


def path_keys() -> Iterator[tuple[type, str]]:
    for command in [*COMMANDS.values(), *BENCHMARKS.values()]:
        module, name = command.schema.split(":")
        schema = getattr(__import__(module, fromlist=[name]), name)
        yield from ((schema, key.name) for key in keys(schema) if key.path)


def test_every_key_that_takes_a_path_expands_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    marked = list(path_keys())
    assert len(marked) > 40
    dicts = {(schema, key.name) for schema, _ in marked for key in keys(schema) if key.default == {}}
    for schema, name in marked:
        if name in ("methods", "compare"):
            continue
        if (schema, name) in dicts:
            assert getattr(parse(schema, [f"{name}.x=~/x"], "", ""), name) == {"x": "/home/someone/x"}
            continue
        required = ["folders=a"] if schema is ReportConfig else []
        file = "x.html" if schema is ReportConfig and name == "out" else "x"
        settings = parse(schema, [*required, f"{name}=~/{file}"], "", "")
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        assert value in (f"/home/someone/{file}", [f"/home/someone/{file}"]), (schema, name)


def test_keys_that_look_like_paths_are_marked() -> None:
    """A new key of these names must say that it takes a path."""
    named = (
        "images",
        "val_images",
        "shards",
        "out",
        "labels",
        "masks",
        "checkpoint",
        "manifest",
        "cache",
        "class_names",
    )
    for command in [*COMMANDS.values(), *BENCHMARKS.values()]:
        module, name = command.schema.split(":")
        schema = getattr(__import__(module, fromlist=[name]), name)
        for key in keys(schema):
            if key.name.rpartition(".")[2] in named and key.type not in (int, float):
                assert key.path, (schema, key.name)


def test_homes_in_yaml_lists_and_after_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    (tmp_path / "a.yaml").write_text("out: ~/runs\ndata:\n  images: ['~/a', /b~]\nclassifier:\n  name: hf:~/model\n")
    settings = parse(TrainConfig, [f"config={tmp_path}/a.yaml"], "", "")
    assert settings.out == "/home/someone/runs"
    assert settings.data.images == ["/home/someone/a", "/b~"]
    assert settings.classifier.name == "hf:/home/someone/model"


@pytest.mark.parametrize(
    ("text", "words", "reason"),
    [
        ("shards: 'pipe:touch ran'", ["shards"], "shards=pipe:touch ran in a.yaml would run a shell command"),
        ("classifier: {name: 'os:system'}", ["train"], "classifier.name=os:system in a.yaml would import and call it"),
        ("classifier: {name: 'os:system'}", ["finetune"], "classifier.name=os:system in a.yaml would import"),
    ],
)
def test_a_file_of_settings_cannot_run_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text)
    assert status(*words, "config=a.yaml") == 2
    assert reason in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["a.yaml"]


def test_the_command_line_may_name_a_command_or_a_function(tmp_path: Path) -> None:
    assert parse(MakeConfig, ["shards=pipe:cat a.tar"], "", "").shards == "pipe:cat a.tar"
    (tmp_path / "a.yaml").write_text("classifier: {name: 'torchvision:resnet18'}")
    assert parse(TrainConfig, [f"config={tmp_path}/a.yaml"], "", "").classifier.name == "torchvision:resnet18"
    (tmp_path / "a.yaml").write_text("classifier: {name: 'mine:build'}")
    words = [f"config={tmp_path}/a.yaml", "classifier.name=mine:build"]
    assert parse(TrainConfig, words, "", "").classifier.name == "mine:build"


# -- full disks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_line_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, reason: str
) -> None:
    """Copying from one disk to another names both files, the source first."""

    def fails(*_: object) -> None:
        raise OSError(number, reason, "/tmp/source", None, f"{tmp_path}/out/last.ckpt")

    monkeypatch.setattr("ltx.cli.shards.pack", fails)
    assert status("shards", "images=scikit-image", f"out={tmp_path}/out") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"error: {tmp_path}/out/last.ckpt cannot be written: {reason}"
