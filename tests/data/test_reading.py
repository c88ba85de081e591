"""Pixels of every kind of image, and errors of files that cannot be read."""

import errno
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ltx.data.image_batches import ImageBatches
from ltx.data.reading import (
    Fingerprint,
    as_rgb,
    decoded,
    load_images,
    opened,
    oriented_size,
    read_content,
    read_image,
    resize,
)
from ltx.runtime.errors import InputError


def write(path: Path, colour: int | tuple[int, ...] = (200, 100, 50), size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


# -- pixels --------------------------------------------------------------------------------------------------------


def colours(path: Path) -> set[tuple[int, ...]]:
    image = read_image(path)
    assert image.mode == "RGB"
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}


def test_each_mode_is_converted_to_rgb(tmp_path: Path) -> None:
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


def test_a_transparent_palette_colour_is_blended_with_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "p.png", transparency=1)
    assert colours(tmp_path / "p.png") == {(255, 255, 255)}


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (0, 7)), (3, (5, 7)), (4, (5, 0)), (5, (0, 0)), (6, (0, 5)), (7, (7, 5)), (8, (7, 0))],
)
def test_exif_orientation_turns_the_image_upright(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
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
def test_damaged_exif_data_are_ignored(tmp_path: Path, tag: int) -> None:
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
def test_decoded_pixels_equal_those_of_pillow(
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


def test_squash_shows_the_full_image_and_centre_keeps_the_aspect_ratio() -> None:
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
def test_the_centre_crop_stays_inside_despite_rounding(size: tuple[int, int], side: int) -> None:
    assert resize(Image.new("RGB", size, "white"), side, "centre").eq(255).all()


def test_load_images_takes_one_file_or_several(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png")
    assert torch.equal(load_images(str(file), 8), load_images([file], 8))
    with pytest.raises(InputError, match="list of image files is empty"):
        load_images([], 8)


def test_pixels_that_are_not_a_number_are_named(tmp_path: Path) -> None:
    values = np.full((4, 4), 0.2, np.float32)
    values[1, 2] = np.nan
    Image.fromarray(values).save(tmp_path / "nan.tif")
    with pytest.raises(InputError, match=r"nan\.tif.* not a number"):
        read_image(tmp_path / "nan.tif")


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
def test_an_unreadable_file_is_named_with_the_reason(damaged: dict[str, Path], kind: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read_image(damaged[kind])
    assert str(damaged[kind]) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_that_would_fill_the_memory_is_refused_by_its_header(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels)
    with (tmp_path / "bomb.npy").open("wb") as file:
        about = {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 1 << 20, 3)}
        np.lib.format.write_array_header_1_0(file, about)
    for name, reason in (("bomb.png", "3600000000 pixels"), ("bomb.npy", "is too large, or the file is truncated")):
        with pytest.raises(InputError, match=f"{name}.*{reason}"):
            read_image(tmp_path / name)


def test_a_file_without_permission_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "photo.jpg")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"photo\.jpg cannot be read: Permission denied"):
        read_content(path)


def test_a_pipe_is_refused_without_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match=r"pipe\.jpg is a pipe, not an image"):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_jpeg_is_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "photo.jpg", size=(400, 300))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"photo\.jpg cannot be read"), opened(path) as image:
        decoded(image)


def test_batches_skip_bad_files_and_stay_full_and_ordered(damaged: dict[str, Path], tmp_path: Path) -> None:
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
    assert len(list(batches)) == 3  # a second pass starts its own list
    assert len(batches.skipped) == 3


def test_no_readable_file_is_an_error(damaged: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"none of the 2 images can be read; skipped 2 files: .*is empty"):
        list(ImageBatches([damaged["empty"], damaged["text"]], 4, batch_size=2))


def test_batches_read_ahead_by_a_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def recorded(path: Path) -> tuple[bytes, Fingerprint]:
        read.append(path)
        return read_content(file)

    file = write(tmp_path / "a.png")
    monkeypatch.setattr("ltx.data.image_batches.read_content", recorded)
    stream = iter(ImageBatches([Path(f"{i}.png") for i in range(500)], 4, batch_size=4, workers=2))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert 4 <= len(read) <= 4 + 4 + 2
