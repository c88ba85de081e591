import json
import os
import shutil
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest

from ltx.report import results_page
from ltx.report.write import write_report
from ltx.runtime.errors import InputError
from tests.report.test_page import Elements
from tests.support.results_folder import write_results


def page_data(file: Path) -> dict[str, Any]:
    return json.loads(Elements(file.read_text("utf-8")).scripts[0])


def test_the_page_has_every_number_of_the_record(tmp_path: Path) -> None:
    write_results(tmp_path / "run", ["a.jpg", "b.jpg"])
    record = tmp_path / "run" / "explanations.jsonl"
    lines = [json.loads(line) | {"insertion": 0.5 + n, "note": "x"} for n, line in enumerate(record.open())]
    lines[0]["probability_kept"] = None
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run,) = page_data(write_report([tmp_path / "run"]))["runs"]
    keys = ["probability", "probability_kept", "probability_removed", "mask_mean", "steps", "seconds", "insertion"]
    assert list(run["numbers"]) == keys
    assert run["numbers"]["insertion"] == [0.5, 1.5]
    assert run["numbers"]["probability_kept"][0] is None
    assert [run["label"]["values"][index] for index in run["label"]["index"]] == ["tabby", "lynx"]


def test_pictures_are_not_in_the_page(tmp_path: Path) -> None:
    write_results(tmp_path, [f"{index}.jpg" for index in range(100)])
    assert write_report([tmp_path]).stat().st_size < 60_000
    assert len(list((tmp_path / "report" / "thumbs").iterdir())) == 100


def test_two_runs_are_compared_and_their_pictures_stay_where_they_are(tmp_path: Path) -> None:
    first = write_results(tmp_path / "a b", ["x.jpg", "y.jpg"])
    second = write_results(tmp_path / "#2", ["y.jpg", "z.jpg"], seed=1)
    file = write_report([first, second])
    assert file == first / "compare.html"
    data = page_data(file)
    assert data["rows"] == [[0, -1], [1, 0], [-1, 1]]
    assert [run["pictures"] for run in data["runs"]] == ["./report", "../%232/report"]
    elsewhere = write_report([first, second], tmp_path / "pages" / "both.html")
    assert [run["url"] for run in page_data(elsewhere)["runs"]] == ["../a%20b", "../%232"]
    with pytest.raises(InputError, match="the same folder"):
        write_report([first, first / ".." / "a b"])


def test_addresses_have_slashes_on_windows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relative = os.path.relpath
    monkeypatch.setattr(os.path, "relpath", lambda *paths: relative(*paths).replace("/", "\\"))
    monkeypatch.setattr(results_page, "Path", PureWindowsPath)
    assert results_page._url(tmp_path / "a b", tmp_path / "report") == "../a%20b"


def test_maps_without_a_mask_are_shown_too(tmp_path: Path) -> None:
    write_results(tmp_path, ["a.jpg"])
    image, values = (np.load(tmp_path / "a.npz")[name] for name in ("image", "map"))
    np.savez(tmp_path / "a.npz", image=image, map=values * 40 - 3)
    (run,) = page_data(write_report([tmp_path]))["runs"]
    assert run["size"] == [[16, 16]]
    assert "areas" not in run


def test_folders_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        write_report([tmp_path / "none"])
    with pytest.raises(InputError, match=r"contains no explanations\.jsonl"):
        write_report([tmp_path])
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "000-000.jsonl").touch()
    with pytest.raises(InputError, match="save=pictures"):
        write_report([tmp_path])
    (tmp_path / "explanations.jsonl").touch()
    with pytest.raises(InputError, match="is empty"):
        write_report([tmp_path])


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    write_results(tmp_path / "one", ["a.jpg"])
    shutil.copytree(tmp_path / "one", tmp_path / "copy" / "one")
    pages = [write_report([folder]).read_bytes() for folder in (tmp_path / "one", tmp_path / "copy" / "one")]
    assert pages[0] == pages[1]
