"""Command-line settings: precedence, conversion of values, and one-line error messages."""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from omegaconf import MISSING

from ltx.classifier.settings import ClassifierConfig
from ltx.config.command_line import parse, run, to_yaml
from ltx.config.options import option
from ltx.runtime.errors import InputError


@dataclass
class Data:
    images: Any = option("scikit-image", "training images")
    batch_size: int = option(8, "images per step")
    crop: list[float] = option([0.35, 1.0], "range of the crop's area")
    size: Any = option(None, "side")


@dataclass
class Settings:
    out: str = option("runs/x", "output folder")
    classifier: ClassifierConfig = option(ClassifierConfig, "the explained model")
    data: Data = option(Data, "images")
    terms: dict[str, float] = option({"area": 1.0}, "weight of each term")
    lr: float = option(1e-4, "learning rate")
    flip: bool = option(True, "mirror at random")
    steps: int | None = option(None, "number of steps")
    fills: list[str] = option(["black"], "what replaces pixels", choices=("black", "blur"))
    choose: str | None = option(None, "rule", choices=("positive", "negative"))


def settings(*words: str) -> Settings:
    return parse(Settings, words, "train.py", "Trains.")


def message(*words: str) -> str:
    with pytest.raises(InputError) as caught:
        settings(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_an_instance_of_the_schema() -> None:
    config = settings()
    assert config == Settings()
    assert isinstance(config.data, Data)
    config.data.crop.append(2.0)
    assert Settings().data.crop == [0.35, 1.0]


def test_words_override_files_override_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lr: 3e-4\ndata:\n  batch_size: 4\n  crop: [0.5, 1.0]\nclassifier:\n")
    config = settings("data.batch_size=2", f"config={tmp_path}/a.yaml")
    assert (config.lr, config.data.batch_size, config.data.crop) == (3e-4, 2, [0.5, 1.0])
    assert config.classifier == ClassifierConfig()


@dataclass
class Implying(Settings):
    IMPLIED: ClassVar[dict[tuple[str, Any], dict[str, Any]]] = {
        ("choose", "negative"): {"lr": 0.5, "data.batch_size": 1, "flip": False}
    }


def test_defaults_that_follow_from_another_key_give_way_to_what_is_set(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lr: 3e-4\n")
    (tmp_path / "b.yaml").write_text("choose: negative\n")

    def chosen(*words: str) -> tuple[float, int, bool]:
        config = parse(Implying, words, "train", "Trains.")
        return config.lr, config.data.batch_size, config.flip

    assert chosen("choose=negative") == (0.5, 1, False)
    assert chosen(f"config={tmp_path}/b.yaml") == (0.5, 1, False)
    assert chosen("choose=negative", f"config={tmp_path}/a.yaml", "flip=true") == (3e-4, 1, True)
    assert chosen("choose=positive") == (1e-4, 8, True)


def test_the_help_names_defaults_that_follow_from_another_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Implying, ["--help"], "train", "Trains.")
    assert "defaults with choose=negative:\n  lr=0.5, data.batch_size=1, flip=false" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "read", "value"),
    [
        ("out=007", lambda c: c.out, "007"),
        ("out=a b#c: d", lambda c: c.out, "a b#c: d"),
        ("out='null'", lambda c: c.out, "null"),
        ("lr=1e-3", lambda c: c.lr, 0.001),
        ("lr=1", lambda c: c.lr, 1.0),
        ("flip=no", lambda c: c.flip, False),
        ("steps=null", lambda c: c.steps, None),
        ("steps=5", lambda c: c.steps, 5),
        ("choose=null", lambda c: c.choose, None),
        ("data.images=*.png", lambda c: c.data.images, "*.png"),
        ("data.images=photos #2", lambda c: c.data.images, "photos #2"),
        ("data.images=0123", lambda c: c.data.images, "0123"),
        ("data.images=1_000", lambda c: c.data.images, "1_000"),
        ("data.images=12:30", lambda c: c.data.images, "12:30"),
        ("data.images=[ab]*.jpg", lambda c: c.data.images, "[ab]*.jpg"),
        ("data.images={000000..000007}.tar", lambda c: c.data.images, "{000000..000007}.tar"),
        ("data.images=true", lambda c: c.data.images, "true"),
        ("data.size=224", lambda c: c.data.size, 224),
        ("data.size=-1", lambda c: c.data.size, -1),
        ("data.size=0.5", lambda c: c.data.size, 0.5),
        ("data.size=1e-3", lambda c: c.data.size, 1e-3),
        ("data.size=.5", lambda c: c.data.size, 0.5),
        ("data.size=+1.", lambda c: c.data.size, 1.0),
        ("data.size='224'", lambda c: c.data.size, "224"),
        ("data.size=null", lambda c: c.data.size, None),
        ("data.images=[a.png, 'b c.png']", lambda c: c.data.images, ["a.png", "b c.png"]),
        ("classifier.input_size=[160,224]", lambda c: c.classifier.input_size, [160, 224]),
        ("terms.tv=0.5", lambda c: c.terms, {"area": 1.0, "tv": 0.5}),
        ("terms={tv: 0.5}", lambda c: c.terms, {"tv": 0.5}),
        ("terms={}", lambda c: c.terms, {}),
    ],
)
def test_words_are_converted_by_the_type_of_the_key(word: str, read: Any, value: Any) -> None:
    result = read(settings(word))
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("lr=fast", ("lr=fast", "str", "float")),
        ("data.size=", ("data.size= is empty; give a value, or leave it out",)),
        ("data.batch_size=1.5", ("data.batch_size=1.5", "float", "int")),
        ("data.batch_size=null", ("data.batch_size=null", "int")),
        ("flip=maybe", ("flip=maybe", "bool")),
        ("data.crop=3", ("data.crop=3", "list[float], as data.crop=[3]")),
        ("terms.area=x", ("terms.area=x", "float")),
        ("terms=3", ("terms=3", "dict")),
        ("terms={area: x}", ("terms={area: x}", "float")),
        ("fills=[black,bleu]", ("fills=bleu", "black, blur")),
        ("choose=area", ("choose=area", "positive, negative")),
        ("classifier.head=none", ("classifier.head=none", "softmax, sigmoid")),
        ("batch_size=3", ("unknown key batch_size", "data.batch_size?")),
        ("data.batchsize=3", ("unknown key data.batchsize", "data.batch_size")),
        ("classifier.wieghts=x", ("unknown key classifier.wieghts", "classifier.weights")),
        ("qqqq=3", ("unknown key qqqq", "--help")),
        ("data=3", ("data=3", "group", "data.images=VALUE")),
        ("lr.x=3", ("unknown key lr.x",)),
        ("--lr", ("'--lr'", "lr=VALUE")),
        ("--batch-size=3", ("data.batch_size=VALUE",)),
        ("photo.png", ("'photo.png'", "=VALUE")),
        ("data.images=[a", ("data.images=[a", "YAML")),
        ("config=nowhere.yaml", ("config=nowhere.yaml", "does not exist")),
        ("config=configs/train/mosaic.yaml", ("config=configs/train/mosaic.yaml", "did you mean mosaics?")),
    ],
)
def test_error_is_one_line_with_key_value_and_fix(word: str, parts: tuple[str, ...]) -> None:
    text = message(word)
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("data:\n  batch: 3\n", ("data.batch", "data.batch_size")),
        ("data: [1\n", ("not valid YAML", "line 2")),
        ("just text\n", ("unknown key just text",)),
        ("- 1\n- 2\n", ("list", "key: value")),
        ("data: 3\n", ("group", "data.images")),
        ("lr: fast\n", ("lr=fast", "float")),
    ],
)
def test_error_in_a_file_names_the_file(tmp_path: Path, content: str, parts: tuple[str, ...]) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    text = message(f"config={tmp_path / 'bad.yaml'}")
    for part in (*parts, "bad.yaml"):
        assert part in text, text


@dataclass
class Required:
    checkpoint: str = option(MISSING, "output folder of a training")


def test_required_key() -> None:
    with pytest.raises(InputError, match=r"checkpoint is required .* write checkpoint=VALUE"):
        parse(Required, [], "finetune.py", "")
    assert parse(Required, ["checkpoint=x"], "finetune.py", "").checkpoint == "x"


def test_help_lists_every_key_with_default_choices_and_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        settings("lr=wrong", "--help")
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: train.py [config=FILE.yaml] [key=value ...]"
    row = next(line for line in lines if line.startswith("  classifier.precision "))
    assert " ".join(row.split()) == "classifier.precision fp32 precision of the classifier's forward pass [fp32 | bf16]"
    assert any(line.split()[:2] == ["data.crop", "[0.35,1.0]"] for line in lines)
    meaning = next(line for line in lines if line.startswith("  lr ")).index("learning rate")
    assert row.index("precision of") == meaning


def test_resolved_yaml_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    config = settings("terms.tv=0.5", "out=007", "data.size=[1,2]", "choose=positive")
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert settings(f"config={tmp_path / 'c.yaml'}") == config
    assert yaml.safe_load(to_yaml(config))["out"] == "007"


def test_run_converts_bad_input_to_one_line_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(config: Settings) -> None:
        raise InputError(f"out={config.out} is wrong")

    def interrupted(config: Settings) -> None:
        raise KeyboardInterrupt

    def full(config: Settings) -> None:
        raise OSError(28, "No space left on device", "runs/x/last.ckpt")

    for main, words, code, text in [
        (lambda config: None, [], 0, ""),
        (fails, ["out=y"], 2, "error: out=y is wrong\n"),
        (fails, ["ouut=y"], 2, "error: unknown key ouut; did you mean out?\n"),
        (full, [], 1, "error: runs/x/last.ckpt cannot be written: No space left on device\n"),
        (interrupted, [], 130, None),
    ]:
        with pytest.raises(SystemExit) as caught:
            run(main, Settings, "train.py", "", words)
        assert caught.value.code == code
        written = capsys.readouterr().err
        assert text is None or written == text


def test_a_warning_is_one_line_without_a_place_in_the_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doubt(UserWarning):
        pass

    def warned(config: Settings) -> None:
        warnings.warn("a.jpg cannot be read:\nit is empty", stacklevel=1)
        warnings.warn("a constant map", Doubt, stacklevel=1)
        warnings.warn("torch.old is deprecated", FutureWarning, stacklevel=1)

    def show(*values: Any, **names: Any) -> None:  # as Python does; pytest would collect them
        print(warnings.formatwarning(*values[:4]), end="", file=sys.stderr)

    before = warnings.formatwarning
    warnings.simplefilter("always")  # pytest restores the filters
    monkeypatch.setattr(warnings, "showwarning", show)
    with pytest.raises(SystemExit):
        run(warned, Settings, "train.py", "", [])
    first, second, third = capsys.readouterr().err.splitlines()[:3]
    assert first == "warning: a.jpg cannot be read: it is empty"
    assert second == "warning: a constant map"
    assert "FutureWarning: torch.old is deprecated" in third  # of a developer's concern: with its place
    assert warnings.formatwarning is before


def test_classifier_config_builds_the_classifier() -> None:
    words = ["classifier.name=resnet18", "classifier.weights=random", "classifier.num_classes=5"]
    classifier = settings(*words, "classifier.input_size=64").classifier.build()
    assert (classifier.name, classifier.num_classes, classifier.input_size) == ("resnet18", 5, (64, 64))
