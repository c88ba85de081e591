"""Class indices of photographs, from the listings around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx.data.finding import find_images
from ltx.evaluation.samples import find_labels


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
    assert [labels[file.resolve()] for file in files] == [9, 8, 7][: len(files)]
