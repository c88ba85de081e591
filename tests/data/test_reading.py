"""Finding and reading images: folders, globs and listings, conversion to RGB, files that cannot be read."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ltx.data.finding import SCIKIT_IMAGE, find_images, image_root, read_labels
from ltx.data.reading import ImageBatches, as_rgb, decoded, load_images, opened, oriented_size, read_image, resize
from ltx.runtime.errors import InputError


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


# -- which files ---------------------------------------------------------------------------------------------------


def test_folders_are_searched_recursively_without_hidden_files(folder: Path) -> None:
    names = [file.relative_to(folder).as_posix() for file in find_images(folder)]
    assert names == ["a.JPG", "b.png", "deep/a.png", "deep/er/c.jpeg"]
    assert find_images(str(folder)) == find_images(folder)


def test_a_link_to_a_parent_folder_is_followed_once(folder: Path) -> None:
    (folder / "deep/loop").symlink_to(folder, target_is_directory=True)
    assert len(find_images(folder)) == 4


def test_files_named_twice_are_listed_once(folder: Path) -> None:
    assert [f.name for f in find_images(f"{folder}/*.png")] == ["b.png"]
    assert [f.name for f in find_images(f"{folder}/**/*.png")] == ["b.png", "a.png"]
    assert [f.name for f in find_images(f"{folder}/d*")] == ["a.png", "c.jpeg"]
    both = find_images([folder / "b.png", str(folder / "deep"), f"{folder}/*.png"])
    assert [f.name for f in both] == ["b.png", "a.png", "c.jpeg"]


def test_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
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


def test_a_missing_label_column_is_named(tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text("file,label\na.png,3\n")
    with pytest.raises(InputError, match="no column class_index; its columns are file, label"):
        read_labels(listing)
    listing.write_text("file,class_index\na.png,3\nb.png,cat\n")
    with pytest.raises(InputError, match="line 3"):
        read_labels(listing)
    with pytest.raises(InputError, match=r"nowhere\.csv does not exist"):
        read_labels(tmp_path / "nowhere.csv")


def test_a_lone_file_and_no_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png")
    assert torch.equal(load_images(str(file), 8), load_images([file], 8))
    with pytest.raises(InputError, match="list of image files is empty"):
        load_images([], 8)


def test_pixels_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    values = np.full((4, 4), 0.2, np.float32)
    values[1, 2] = np.nan
    Image.fromarray(values).save(tmp_path / "nan.tif")
    with pytest.raises(InputError, match=r"nan\.tif.* not a number"):
        read_image(tmp_path / "nan.tif")


def test_scikit_image_photographs_are_all_there() -> None:
    files = find_images("scikit-image")
    assert [file.name for file in files] == SCIKIT_IMAGE
    assert all(min(read_image(file).size) >= 300 for file in files)


@pytest.mark.parametrize("spec", ["nowhere", "nowhere/*.png", "nowhere.png", []])
def test_nothing_there(spec: str) -> None:
    with pytest.raises(InputError, match="images"):
        find_images(spec)


def test_a_folder_whose_name_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "2012" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert find_images(2012) == [Path("2012/a.png")]  # type: ignore[arg-type]
    for spec in (None, True, 1.5):
        with pytest.raises(InputError, match="give a file, folder, glob"):
            find_images(spec)  # type: ignore[arg-type]


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=f"{tmp_path} holds no image"):
        find_images(tmp_path)


def test_root_is_the_deepest_folder_that_holds_all(folder: Path) -> None:
    assert image_root(folder) == folder
    assert image_root(folder / "deep/a.png") == folder / "deep"
    assert image_root(f"{folder}/**/*.png") == folder
    assert image_root([folder / "deep/er", folder / "deep"]) == folder / "deep"
    assert image_root([folder / "deep", folder / "b.png"]) == folder


# -- pixels --------------------------------------------------------------------------------------------------------


def colours(path: Path) -> set[tuple[int, ...]]:
    image = read_image(path)
    assert image.mode == "RGB"
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}


def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    cases = {
        "l.png": (Image.new("L", (4, 4), 90), (90, 90, 90)),
        "bit.png": (Image.new("1", (4, 4), 1), (255, 255, 255)),
        "p.png": (red.convert("P", palette=Image.Palette.ADAPTIVE), (255, 0, 0)),
        "p.gif": (red.convert("P", palette=Image.Palette.ADAPTIVE), (255, 0, 0)),
        "cmyk.tif": (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
        "clear.png": (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255)),
        "half.png": (Image.new("RGBA", (4, 4), (255, 0, 0, 51)), (255, 204, 204)),
        "la.png": (Image.new("LA", (4, 4), (0, 51)), (204, 204, 204)),
        "deep.png": (Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)), (128, 128, 128)),
        "deep.tif": (Image.fromarray(np.full((4, 4), 128 * 257, np.int32)), (128, 128, 128)),
        "float.tif": (Image.fromarray(np.full((4, 4), 0.2, np.float32)), (51, 51, 51)),
        "above_1.tif": (Image.fromarray(np.full((4, 4), 1.1, np.float32)), (255, 255, 255)),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        found = colours(tmp_path / name)
        assert found == {expected}, name
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    Image.fromarray(ramp).save(tmp_path / "ramp.tif")
    assert np.array_equal(np.asarray(read_image(tmp_path / "ramp.tif"))[..., 0], (ramp * 255).round())


def test_palette_with_a_transparent_colour_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "p.png", transparency=1)
    assert colours(tmp_path / "p.png") == {(255, 255, 255)}


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (0, 7)), (3, (5, 7)), (4, (5, 0)), (5, (0, 0)), (6, (0, 5)), (7, (7, 5)), (8, (7, 0))],
)
def test_exif_orientation_stands_the_picture_upright(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(read_image(tmp_path / "a.png"))[..., 0]
    assert np.argwhere(upright == 255).tolist() == [list(corner)]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
    noise.save(tmp_path / "b.png", exif=exif)
    with Image.open(tmp_path / "b.png") as image:
        expected = ImageOps.exif_transpose(image)
    assert np.array_equal(np.asarray(read_image(tmp_path / "b.png")), np.asarray(expected))


@pytest.mark.parametrize("tag", [0x0100, 0x010E, 0x011A])  # a width, a description, a resolution that is no number
def test_damaged_exif_data_do_not_cost_the_picture(tmp_path: Path, tag: int) -> None:
    entries = [(0x0112, 3, 6), (tag, 11, 0x41)]  # orientation 6; the other as a float
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", name, kind, 1, value) for name, kind, value in entries)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + directory + bytes(4)
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (6, 8)
    with opened(tmp_path / "a.jpg") as image:
        assert oriented_size(image) == (6, 8)
        assert decoded(image).shape == (3, 8, 6)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("orientation", [1, 2, 6])
@pytest.mark.parametrize("shrink", [1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoded_are_the_pixels_that_pillow_decodes(
    tmp_path: Path, subsampling: int, orientation: int, shrink: int, mode: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).resize((102, 74)).convert(mode).save(path, quality=80, subsampling=subsampling, exif=exif)
    found = []
    for decode in (decoded, lambda image: torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1)):
        with opened(path) as image:
            if shrink > 1:
                image.draft(None, (102 // shrink, 74 // shrink))
            found.append(decode(image))
    turned = orientation == 6
    assert found[0].shape == (3, (102 if turned else 74) // shrink, (74 if turned else 102) // shrink)
    assert torch.equal(*found)


def test_squash_keeps_everything_and_centre_keeps_the_aspect_ratio() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    image = Image.fromarray(pixels)
    assert resize(image, 10, "centre").eq(255).all()
    squashed = resize(image, (10, 30), "squash")
    assert torch.equal(squashed, torch.from_numpy(pixels).permute(2, 0, 1))
    assert resize(image, (4, 12), "centre").shape == (3, 4, 12)
    share = resize(image, 9, "squash").float().mean() / 255
    assert share == pytest.approx(1 / 3, abs=0.02)
    with pytest.raises(InputError, match="squash, centre"):
        resize(image, 9, "center")  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "side"), [((1600, 900), 224), ((58, 65), 224), ((62, 69), 240), ((500, 333), 380)])
def test_centre_stays_inside_the_picture_whatever_rounding_does(size: tuple[int, int], side: int) -> None:
    assert resize(Image.new("RGB", size, "white"), side, "centre").eq(255).all()


# -- files that cannot be read -------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> dict[str, Path]:
    whole = tmp_path / "whole.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    files = {"whole": whole, "missing": tmp_path / "missing.jpg"}
    for name, content in (("empty", b""), ("text", b"this is text"), ("truncated", whole.read_bytes()[:1500])):
        files[name] = tmp_path / f"{name}.jpg"
        files[name].write_bytes(content)
    return files


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("missing", "does not exist"), ("empty", "is empty"), ("text", "is not an image"), ("truncated", "truncated")],
)
def test_unreadable_file_is_named_with_the_reason(damaged: dict[str, Path], kind: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read_image(damaged[kind])
    assert str(damaged[kind]) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match=r"pipe\.jpg is a pipe, not an image"):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_jpeg_is_not_decoded_to_half_a_picture(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "photo.jpg", size=(400, 300))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"photo\.jpg cannot be read"), opened(path) as image:
        decoded(image)


def test_batches_skip_bad_files_and_stay_full_and_in_order(damaged: dict[str, Path], tmp_path: Path) -> None:
    good = [write(tmp_path / f"good_{i}.png", (10 * i, 0, 0)) for i in range(5)]
    files = [good[0], damaged["empty"], good[1], damaged["missing"], good[2], good[3], damaged["truncated"], good[4]]
    batches = ImageBatches(files, 4, batch_size=2, workers=3)
    got = list(batches)
    assert [names for names, _ in got] == [good[:2], good[2:4], good[4:]]
    images = torch.cat([images for _, images in got])
    assert images.dtype == torch.float32
    assert torch.equal(images[:, 0, 0, 0], torch.arange(5) * 10 / 255)
    assert torch.equal(images, load_images(good, 4))
    assert [path for path, _ in batches.skipped.files] == [damaged[k] for k in ("empty", "missing", "truncated")]
    summary = batches.skipped.summary()
    assert summary.startswith("skipped 3 files: ")
    assert "empty.jpg is empty; " in summary
    assert batches.skipped.summary(limit=1).endswith("and 2 more")
    assert len(list(batches)) == 3  # a second pass starts its own record
    assert len(batches.skipped) == 3


def test_batches_of_nothing_readable_is_an_error(damaged: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"none of the 2 images can be read; skipped 2 files: .*is empty"):
        list(ImageBatches([damaged["empty"], damaged["text"]], 4, batch_size=2))


def test_batches_read_ahead_by_a_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("ltx.data.reading.read_image", lambda path: asked.append(path) or Image.new("RGB", (4, 4)))
    stream = iter(ImageBatches([Path(f"{i}.png") for i in range(500)], 4, batch_size=4, workers=2))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert 4 <= len(asked) <= 4 + 4 + 2


def test_pictures_that_a_run_left_in_its_own_folder_are_no_images_of_it(tmp_path):
    (tmp_path / "photos/run").mkdir(parents=True)
    for name in ("photos/a.png", "photos/run/overlay.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert find_images(tmp_path / "photos", out=tmp_path / "photos/run") == [tmp_path / "photos/a.png"]
    for out in ("photos", "."):
        with pytest.raises(InputError, match="is where the images are; choose another folder for the results"):
            find_images(tmp_path / "photos", out=tmp_path / out)
