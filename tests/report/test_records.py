import json
from pathlib import Path

import pytest

from ltx.report.records import Result, paired, read_results
from ltx.runtime.errors import InputError
from tests.support.results_folder import NASTY, write_results


def results(*names: str) -> list[Result]:
    return [Result({"image": f"photos/{name}.jpg"}, name) for name in names]


def test_results_come_in_the_order_of_the_record_with_their_files(tmp_path: Path) -> None:
    write_results(tmp_path, [*NASTY, "deep/er/a.jpg"])
    found = read_results(tmp_path)
    assert [result.record["image"] for result in found] == [f"photos/{name}" for name in [*NASTY, "deep/er/a.jpg"]]
    assert all((tmp_path / f"{result.stem}.npz").is_file() for result in found)
    assert len({result.key for result in found}) == len(found)
    assert all(set(result.key) <= set("0123456789abcdef") for result in found)


def test_a_record_without_stems_finds_its_files_by_name(tmp_path: Path) -> None:
    write_results(tmp_path, ["one/a.jpg", "two/a.jpg", "b.jpg"])
    record = tmp_path / "explanations.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    record.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "stem"}) + "\n" for line in lines))
    assert [result.stem for result in read_results(tmp_path)] == ["one/a", "two/a", "b"]


def test_a_line_that_is_being_written_is_ignored(tmp_path: Path) -> None:
    write_results(tmp_path, ["a.jpg", "b.jpg"])
    record = tmp_path / "explanations.jsonl"
    record.write_text(record.read_text()[:-30])
    assert [result.stem for result in read_results(tmp_path)] == ["a"]


@pytest.mark.parametrize("stem", ["../secret", "a/../../secret", "/secret"])
def test_a_record_cannot_show_files_outside_its_folder(tmp_path: Path, stem: str) -> None:
    write_results(tmp_path, ["a.jpg"])
    record = tmp_path / "explanations.jsonl"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"stem": stem}) + "\n")
    with pytest.raises(InputError, match=f"the stem '{stem}' leads out of the folder"):
        read_results(tmp_path)


@pytest.mark.parametrize("line", ["{", "[]", '{"image": 3}', "7"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    write_results(tmp_path, ["a.jpg"])
    with (tmp_path / "explanations.jsonl").open("a") as record:
        record.write(line + "\n")
    with pytest.raises(InputError, match="line 2 is not a result"):
        read_results(tmp_path)


def test_runs_are_paired_by_image_and_what_one_lacks_is_kept() -> None:
    assert paired(results("a", "b", "c"), results("c", "a", "d")) == [(0, 1), (1, -1), (2, 0), (-1, 2)]


def test_runs_with_other_paths_are_paired_by_their_files() -> None:
    moved = [Result({"image": f"/elsewhere/{name}.jpg"}, name) for name in "ba"]
    assert paired(results("a", "b"), moved) == [(0, 1), (1, 0)]
    with pytest.raises(InputError, match="no image in common"):
        paired(results("a"), results("b"))
