"""Class indices of photographs, from the listings around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx.data.finding import find_images
from ltx.evaluation.samples import find_labels
from ltx.runtime.errors import InputError


@pytest.mark.parametrize("spec", ["val", "val/*/*.png", "val/*", "val/a/1.png"])
def test_the_nearest_listing_wins_for_folders_globs_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    folder = tmp_path / "data" / "val"
    for name in ("a/1.png", "b/2.png", "b/3.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for place, rows in (
        (tmp_path, "data/val/a/1.png,7\ndata/val/b/2.png,7\ndata/val/b/3.png,7\n"),
        (folder, "a/1.png,8\nb/2.png,8\n"),
        (folder / "a", "1.png,9\n"),
    ):
        (place / "labels.csv").write_text("file,class_index\n" + rows)
    monkeypatch.chdir(tmp_path / "data")
    files = find_images(spec)
    labels = find_labels(files, None, [spec])
    assert [labels[file] for file in files] == [9, 8, 7][: len(files)]


def test_a_listing_above_the_file_wins_over_a_deeper_one_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("val/a/1.png", "val/b/deep/2.png", "val/b/deep/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "val/labels.csv").write_text("file,class_index\na/1.png,1\nb/deep/2.png,2\n")
    (tmp_path / "val/b/deep/labels.csv").write_text("file,class_index\n../../a/1.png,7\n3.png,3\n")
    (tmp_path / "val/a/labels.csv").write_text("file,class_index\n../b/deep/2.png,8\n../b/deep/3.png,8\n")
    monkeypatch.chdir(tmp_path)
    files = find_images("val")
    assert list(find_labels(files, None, ["val"]).values()) == [1, 2, 3]
    (tmp_path / "val/labels.csv").unlink()
    assert list(find_labels(files, None, ["val"]).values()) == [7, 8, 3], "elsewhere, if nothing above lists the file"


def test_a_listing_of_something_else_is_skipped_where_it_was_found_automatically(tmp_path: Path) -> None:
    (tmp_path / "val/cats").mkdir(parents=True)
    (tmp_path / "val/cats/1.png").touch()
    other = tmp_path / "val/cats/labels.csv"
    other.write_text("file,breed\n1.png,siamese\n")
    files, roots = find_images(tmp_path / "val"), [str(tmp_path / "val")]
    with pytest.raises(InputError, match=r"cats/labels\.csv has no column class_index; its columns are file, breed"):
        find_labels(files, None, roots)
    (tmp_path / "val/labels.csv").write_text("file,class_index\ncats/1.png,4\n")
    assert find_labels(files, None, roots) == {files[0]: 4}
    with pytest.raises(InputError, match="has no column class_index"):
        find_labels(files, str(other), roots)
