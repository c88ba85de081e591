"""Listings of image files, however their fields are separated."""

from pathlib import Path

import pytest

from ltx.data.finding import find_images
from ltx.data.listings import listed_files, read_labels
from ltx.runtime.errors import InputError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "file;class_index\na, b.png;3\nc.png;4\n"),
        ("list.csv", "class_index\tfile\n3\ta, b.png\n4\tc.png\n"),
        ("list.tsv", "file\tclass_index\na, b.png\t3\nc.png\t4\n"),
        ("list.txt", "file\tclass_index\na, b.png\t3\nc.png\t4\n"),
        ("list.csv", 'class_index,file\n3,"a, b.png"\n4,c.png\n'),
        ("list.csv", "file;class_index;score\na, b.png;3;0,5\nc.png;4;0,25\n"),
    ],
)
def test_commas_semicolons_and_tabs(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    files = [tmp_path / "a, b.png", tmp_path / "c.png"]
    assert listed_files(tmp_path / name) == files
    assert read_labels(tmp_path / name) == dict(zip(files, (3, 4), strict=True))


@pytest.mark.parametrize(
    "text", ["a.png;0,5\nb.png;0,25\n", "a.png\nb.png\n", "\n a.png \n\nb.png", "a.png 12\nb.png 7\n"]
)
def test_text_files_and_tables_without_header(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    assert listed_files(tmp_path / "list.txt") == [tmp_path / "a.png", tmp_path / "b.png"]
    assert find_images(tmp_path / "list.txt") == [tmp_path / "a.png", tmp_path / "b.png"]


def test_a_table_without_header_keeps_its_first_image_in_any_column(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("cat,a.png\ndog,b.png\n")
    assert listed_files(tmp_path / "list.csv") == [tmp_path / "a.png", tmp_path / "b.png"]


def test_a_file_name_that_ends_in_a_number_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "a.png 3").touch()
    (tmp_path / "list.txt").write_text("a.png 3\nno suffix 3\n")
    assert listed_files(tmp_path / "list.txt") == [tmp_path / "a.png 3", tmp_path / "no suffix 3"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"a.png\n\0\0\n"])
def test_a_file_that_is_not_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"list\.csv is not"):
        listed_files(tmp_path / "list.csv")
