"""The files that a setting means."""

from pathlib import Path

import pytest
from PIL import Image

from ltx.data.finding import SCIKIT_IMAGE, find_images, image_root, search_images
from ltx.data.listings import read_labels
from ltx.data.reading import read_image
from ltx.runtime.errors import InputError
from tests.support.small_inputs import close_folder


def write(path: Path, colour: int | tuple[int, ...] = (200, 100, 50), size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "deep/er/c.jpeg", "deep/a.png", ".hidden.png", "._b.png", ".git/x.png"):
        write(tmp_path / "photos" / name)
    (tmp_path / "photos/notes.txt").write_text("no image")
    return tmp_path / "photos"


# -- finding -----------------------------------------------------------------------------------------------------


def test_a_folder_is_searched_at_any_depth_without_hidden_files(folder: Path) -> None:
    names = [file.relative_to(folder).as_posix() for file in find_images(folder)]
    assert names == ["a.JPG", "b.png", "deep/a.png", "deep/er/c.jpeg"]
    assert find_images(str(folder)) == find_images(folder)


def test_a_link_to_a_parent_folder_is_followed_once(folder: Path) -> None:
    (folder / "deep/loop").symlink_to(folder, target_is_directory=True)
    assert len(find_images(folder)) == 4


@pytest.mark.parametrize("spec", ["", "d*"])
def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    before = search_images(folder / spec)
    closed = close_folder(folder / "deep" / "closed", monkeypatch)
    found = search_images([folder / spec, folder / "deep"])
    assert found.files == before.files
    assert found.failed == []
    assert found.closed == [(str(closed), "Permission denied")]
    said = f"1 folder cannot be listed: {closed} (Permission denied)"
    assert search_images(folder / spec).summary() == "; ".join(filter(None, [before.summary(), said]))
    assert find_images(folder / spec) == before.files
    with pytest.raises(InputError, match=r"closed contains no image; 1 folder cannot be listed: .*closed \(Perm"):
        search_images(closed)
    both = search_images([folder / spec, closed])
    assert [entry for entry, _ in both.failed] == [str(closed)]


def test_lists_of_globs_files_and_folders_have_no_duplicates(folder: Path) -> None:
    assert [f.name for f in find_images(f"{folder}/*.png")] == ["b.png"]
    assert [f.name for f in find_images(f"{folder}/**/*.png")] == ["b.png", "a.png"]
    assert [f.name for f in find_images(f"{folder}/d*")] == ["a.png", "c.jpeg"]
    both = find_images([folder / "b.png", str(folder / "deep"), f"{folder}/*.png"])
    assert [f.name for f in both] == ["b.png", "a.png", "c.jpeg"]


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    file = write(tmp_path / "a[1].png")
    assert find_images(file) == [file]


@pytest.mark.parametrize(
    "text",
    [
        'id,file,class_index\n1,"with, comma.png",3\n2,sub/b.png,4\n',
        'image,class_index\n"with, comma.png",3\n\nsub/b.png,4\n',
        '\ufeffclass_index,PATH\n3,"with, comma.png"\n4,sub/b.png\n',
        '"with, comma.png",3\nsub/b.png,4\n',
        'photo,class_index\n"with, comma.png",3\nsub/b.png,4\n',
        'id,class_index,img_path\n1,3,"with, comma.png"\n2,4,sub/b.png\n',
    ],
)
def test_listing(tmp_path: Path, text: str) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text(text, encoding="utf-8")
    assert find_images(listing) == [tmp_path / "with, comma.png", tmp_path / "sub/b.png"]
    if "class_index" in text:
        assert read_labels(listing) == {tmp_path / "with, comma.png": 3, tmp_path / "sub/b.png": 4}


def test_labels_name_the_missing_column_or_line(tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text("file,label\na.png,3\n")
    with pytest.raises(InputError, match="no column class_index; its columns are file, label"):
        read_labels(listing)
    listing.write_text("file,class_index\na.png,3\nb.png,cat\n")
    with pytest.raises(InputError, match="line 3"):
        read_labels(listing)
    with pytest.raises(InputError, match=r"nowhere\.csv does not exist"):
        read_labels(tmp_path / "nowhere.csv")


def test_all_scikit_image_photographs_exist() -> None:
    files = find_images("scikit-image")
    assert [file.name for file in files] == SCIKIT_IMAGE
    assert all(min(read_image(file).size) >= 300 for file in files)


@pytest.mark.parametrize("spec", ["nowhere", "nowhere/*.png", "nowhere.png", []])
def test_a_missing_entry_is_an_error(spec: str) -> None:
    with pytest.raises(InputError, match="images"):
        find_images(spec)


def test_a_folder_whose_name_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "2012" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert find_images(2012) == [Path("2012/a.png")]  # type: ignore[arg-type]
    for spec in (None, True, 1.5):
        with pytest.raises(InputError, match="give a file, folder, glob"):
            find_images(spec)  # type: ignore[arg-type]


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=f"{tmp_path} contains no image"):
        find_images(tmp_path)


def test_the_root_is_the_deepest_common_folder(folder: Path) -> None:
    assert image_root(folder) == folder
    assert image_root(folder / "deep/a.png") == folder / "deep"
    assert image_root(f"{folder}/**/*.png") == folder
    assert image_root([folder / "deep/er", folder / "deep"]) == folder / "deep"
    assert image_root([folder / "deep", folder / "b.png"]) == folder


def test_pictures_in_the_folder_of_results_are_excluded(tmp_path: Path) -> None:
    (tmp_path / "photos/run").mkdir(parents=True)
    for name in ("photos/a.png", "photos/run/overlay.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert find_images(tmp_path / "photos", out=tmp_path / "photos/run") == [tmp_path / "photos/a.png"]
    for out in ("photos", "."):
        with pytest.raises(InputError, match="is where the images are; choose another folder for the results"):
            find_images(tmp_path / "photos", out=tmp_path / out)


# -- suffixes, and files left out ----------------------------------------------------------------------------------


def test_every_format_that_pillow_reads_is_found_and_the_rest_is_named(tmp_path: Path) -> None:
    kinds = {"a.jfif": "JPEG", "b.avif": "AVIF", "c.png": "PNG", "d.jp2": "JPEG2000", "e.qoi": "QOI"}
    for name, kind in kinds.items():
        Image.new("RGB", (8, 8), "red").save(tmp_path / name, kind)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "video.mpg").write_text("Pillow knows the suffix, but cannot decode it")
    found = search_images(tmp_path)
    assert [file.name for file in found.files] == list(kinds)
    assert all(read_image(file).size == (8, 8) for file in found.files)
    assert found.summary() == "left out 2 files that are not images by their suffix: notes.txt, video.mpg"
    globbed = search_images(f"{tmp_path}/*")
    assert (globbed.files, globbed.summary()) == (found.files, found.summary())


def test_many_files_left_out_are_counted_by_suffix(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    for number in range(5):
        (tmp_path / f"{number}.xml").touch()
    (tmp_path / "README").touch()
    summary = search_images(tmp_path).summary()
    assert summary == "left out 6 files that are not images by their suffix: 5 × .xml, 1 × no suffix"


# -- several entries, some of them bad -----------------------------------------------------------------------------


def test_entries_that_contain_no_image_do_not_stop_the_others(tmp_path: Path) -> None:
    good = write(tmp_path / "good/a.png")
    (tmp_path / "empty").mkdir()
    found = search_images([tmp_path / "good", tmp_path / "empty", tmp_path / "nowhere"])
    assert found.files == [good]
    assert [entry for entry, _ in found.failed] == [str(tmp_path / "empty"), str(tmp_path / "nowhere")]
    assert "contains no image" in found.failed[0][1]
    assert "does not exist" in found.failed[1][1]
    with pytest.raises(InputError, match="empty contains no image"):
        find_images([tmp_path / "good", tmp_path / "empty"])


# -- brackets ------------------------------------------------------------------------------------------------------


def test_a_glob_through_a_folder_whose_name_has_brackets(tmp_path: Path) -> None:
    file = write(tmp_path / "[a] photos/b/1.png")
    assert find_images(f"{tmp_path}/[a] photos/*/*.png") == [file]
    assert find_images(f"{tmp_path}/[[]a] photos/b/*.png") == [file]
    assert image_root(f"{tmp_path}/[a] photos/*/*.png") == tmp_path / "[a] photos"
    with pytest.raises(InputError, match=r"contains no image; .*\[\.\.\.\] are patterns, and \[\[\] matches a bracket"):
        find_images(f"{tmp_path}/[x] photos/*.png")
