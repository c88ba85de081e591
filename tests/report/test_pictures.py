import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx.report import pictures
from ltx.report.pictures import make_pictures, stretched
from ltx.report.records import read_results
from ltx.results.pictures import overlay
from ltx.runtime.errors import InputError
from tests.support.results_folder import NASTY, write_results


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stems of the results whose pictures were made, in any order."""
    stems: list[str] = []
    make = pictures._make

    def counted(folder, report, result, source):
        stems.append(result.stem)
        return make(folder, report, result, source)

    monkeypatch.setattr(pictures, "_make", counted)
    return stems


def test_pictures_show_the_image_the_map_and_the_masks(tmp_path: Path) -> None:
    write_results(tmp_path, ["a.jpg"], size=64, areas=[0.1, 0.5])
    (made,) = make_pictures(tmp_path, read_results(tmp_path))
    assert (made.height, made.width, made.areas) == (64, 64, [0.1, 0.5])
    assert made.kept == pytest.approx([0.1, 0.9], abs=1e-4)
    stored = np.load(tmp_path / "a.npz")
    with Image.open(tmp_path / "report" / "views" / f"{made.key}.jpg") as view:
        assert view.size == (128, 64)
        assert np.abs(np.asarray(view)[:, :64].astype(int) - stored["image"]).mean() < 3
    with Image.open(tmp_path / "report" / "views" / f"{made.key}.png") as masks:
        opacity = np.asarray(masks.convert("RGBA"))[..., 3]
    assert opacity.shape == (3 * 64, 64)
    assert np.array_equal(opacity[:64], (stored["mask"] * 255).round())
    assert np.array_equal(opacity[64:], np.load(tmp_path / "a.areas.npz")["masks"].reshape(128, 64))
    with Image.open(tmp_path / "report" / "thumbs" / f"{made.key}.jpg") as thumb:
        assert np.abs(np.asarray(thumb).astype(int) - overlay(stored["image"], stored["mask"])).mean() < 4


def test_a_second_report_makes_only_what_is_new_or_changed(tmp_path: Path, drawn: list[str]) -> None:
    write_results(tmp_path, NASTY)
    first = make_pictures(tmp_path, read_results(tmp_path))
    assert len(drawn) == len(NASTY)
    drawn.clear()
    assert make_pictures(tmp_path, read_results(tmp_path)) == first
    assert drawn == []
    write_results(tmp_path, ["new.jpg"])
    os.utime(tmp_path / "${alert(1)}{{7*7}}.npz", ns=(1, 1))
    make_pictures(tmp_path, read_results(tmp_path))
    assert sorted(drawn) == ["${alert(1)}{{7*7}}", "new"]


def test_an_interrupted_report_keeps_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn) -> None:
    write_results(tmp_path, [f"{index}.jpg" for index in range(6)])
    make = pictures._make

    def stops(folder, report, result, source):
        if result.stem == "3":
            raise KeyboardInterrupt
        return make(folder, report, result, source)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "_make", stops)
        with pytest.raises(KeyboardInterrupt):
            make_pictures(tmp_path, read_results(tmp_path), workers=1)
    with (tmp_path / "report" / "pictures.jsonl").open("a") as record:
        record.write('{"key": "half')  # as a killed process leaves it
    drawn.clear()
    make_pictures(tmp_path, read_results(tmp_path))
    assert "3" in drawn
    assert not {"0", "1", "2"} & set(drawn)
    drawn.clear()
    make_pictures(tmp_path, read_results(tmp_path))
    assert drawn == []


def test_results_without_files_stay_in_the_report_and_damaged_ones_are_named(tmp_path: Path) -> None:
    write_results(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "a.npz").unlink()
    missing, made = make_pictures(tmp_path, read_results(tmp_path))
    assert missing.source is None
    assert made.source is not None
    (tmp_path / "b.npz").write_bytes(b"PK broken")
    with pytest.raises(InputError, match=r"b\.npz cannot be read"):
        make_pictures(tmp_path, read_results(tmp_path))


def test_maps_of_any_range_are_stretched() -> None:
    assert stretched(np.array([[-3.0, 1.0]])).tolist() == [[0, 1]]
    assert stretched(np.array([[2.0, 2.0]])).tolist() == [[1, 1]]
    assert stretched(np.array([[np.nan, 0.0, 4.0]])).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("line", ["[" * 5000, "{", "[]", '{"key": "a"}', '{"key": [], "source": [0, 0]}', "\u2028"])
def test_a_damaged_line_about_pictures_makes_them_again(tmp_path: Path, line: str) -> None:
    write_results(tmp_path, ["a.jpg"])
    first = make_pictures(tmp_path, read_results(tmp_path))
    file = tmp_path / "report" / pictures.MADE
    file.write_text(line + "\n")
    assert make_pictures(tmp_path, read_results(tmp_path)) == first
