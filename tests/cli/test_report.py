from pathlib import Path

import pytest

from ltx.cli.main import main
from ltx.config.command_line import help_text, parse
from ltx.report.settings import ReportConfig
from ltx.runtime.errors import InputError
from tests.support.results_folder import write_results


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main(["report", *words])
    return int(exit.value.code or 0)


def test_folders_are_plain_words_even_with_an_equals_sign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_results(tmp_path / "lr=0.1", ["a.jpg"])
    two = write_results(tmp_path / "[two, three]", ["a.jpg"])
    assert run(str(one)) == 0
    assert (one / "index.html").is_file()
    assert run(str(one), str(two), f"out={tmp_path}/both.html") == 0
    assert f"report: {tmp_path}/both.html" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, text in [
        ([], "takes one or two folders"),
        (["a", "b", "c"], "takes one or two folders of results, not 3"),
        ([str(tmp_path / "none")], "is not a folder"),
        (["a", "out=page.png"], "ends in .html"),
        (["a", "--dark"], "is not a valid setting"),
        (["a", "colour=red"], "unknown key colour"),
    ]:
        assert run(*words) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1


def test_a_configuration_file_can_name_the_folders(tmp_path: Path) -> None:
    (tmp_path / "report.yaml").write_text("folders: [a, b]\n")
    config = parse(ReportConfig, [f"config={tmp_path}/report.yaml"], "ltx report", "")
    assert config.folders == ["a", "b"]
    assert parse(ReportConfig, ["folders=runs/x"], "ltx report", "").folders == ["runs/x"]
    assert "usage: ltx report FOLDER [FOLDER] [config=FILE.yaml]" in help_text(ReportConfig, "ltx report", "")


def test_other_commands_take_no_plain_words() -> None:
    from ltx.results.settings import ExplainConfig

    with pytest.raises(InputError, match="is not a valid setting"):
        parse(ExplainConfig, ["folder"], "ltx finetune", "")
