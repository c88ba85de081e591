"""Images of one, two, four and more channels, from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ltx.data.cropping import Cropping
from ltx.data.folder import Crops
from ltx.data.image_batches import ImageBatches
from ltx.data.reading import load_images, opened, read_image, read_resized
from ltx.results.pictures import displayed
from ltx.runtime.errors import InputError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def planes(tensor: torch.Tensor) -> np.ndarray:
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.npy"])
def test_one_channel(tmp_path: Path, name: str) -> None:
    grey = noise(12, 16)
    file = tmp_path / name
    np.save(file, grey) if file.suffix == ".npy" else Image.fromarray(grey).save(file)
    assert np.array_equal(planes(read_resized(file, (12, 16), channels=1))[..., 0], grey)
    assert np.array_equal(np.asarray(read_image(file)), np.repeat(grey[..., None], 3, 2))


def test_deep_grey_is_scaled_and_colour_becomes_grey(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    assert read_resized(tmp_path / "deep.png", 4, channels=1).unique().tolist() == [128]
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "red.png")
    assert read_resized(tmp_path / "red.png", 4, channels=1).unique().tolist() == [76]  # ITU-R 601


def test_four_channels_keep_the_colours_of_transparent_pixels(tmp_path: Path) -> None:
    pixels = noise(12, 16, 4)
    pixels[:6, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", pixels)
    for name in ("a.png", "a.npy"):
        assert np.array_equal(planes(read_resized(tmp_path / name, (12, 16), channels=4)), pixels)
    Image.fromarray(pixels[..., :3]).save(tmp_path / "b.png")
    assert read_resized(tmp_path / "b.png", 8, channels=4)[3].unique().tolist() == [255]


@pytest.mark.parametrize("kind", ["npy", "contiguous tif", "planar tif", "pages tif"])
@pytest.mark.parametrize("channels", [2, 5, 13])
def test_many_channels(tmp_path: Path, kind: str, channels: int) -> None:
    pixels = noise(12, 16, channels)
    file = tmp_path / f"a.{kind.rpartition(' ')[2]}"
    if kind == "npy":
        np.save(file, pixels)
    elif kind == "contiguous tif":
        tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
    elif kind == "planar tif":
        tifffile.imwrite(file, pixels.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate")
    else:
        tifffile.imwrite(file, pixels.transpose(2, 0, 1), photometric="minisblack")
    if kind != "npy" and channels == 2:
        pytest.skip("Pillow reads the two bands of a TIFF as grey and alpha")
    assert np.array_equal(planes(read_resized(file, (12, 16), channels=channels)), pixels)
    with pytest.raises(InputError, match=rf"it has {channels} channels; the classifier takes {channels + 5}"):
        read_resized(file, 8, channels=channels + 5)
    crops = Crops([file], Cropping((12, 16), 0, scale=(1.0, 1.0), flip=False, channels=channels))
    assert np.array_equal(planes(crops[0, 0]["image"]), pixels)
    ((_, images),) = ImageBatches([file], (6, 8), 1, channels=channels)
    assert images.shape == (1, channels, 6, 8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 65535], [32896, 257]], np.uint16), [0, 255, 128, 1]),
        (np.array([[0, 1], [0.5, 0.2]], np.float32), [0, 255, 128, 51]),
        (np.array([[False, True], [True, False]]), [0, 255, 255, 0]),
    ],
)
def test_values_of_arrays(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    np.save(tmp_path / "a.npy", values)
    assert read_resized(tmp_path / "a.npy", 2, channels=1).flatten().tolist() == expected


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[0.0, 2.0]]), r"floats outside \[0, 1\]"),
        (np.array([[0.0, np.nan]]), r"floats outside \[0, 1\]"),
        (np.array([[1, 2]]), "an array of int64"),
        (np.zeros(3, np.uint8), r"an array of shape \(3,\)"),
        (np.zeros((2, 2, 7), np.uint8), "it has 7 channels; the classifier takes 3"),
        (np.zeros((0, 2), np.uint8), r"an array of shape \(0, 2\)"),
        (np.array([[{}]]), "an array of object"),
    ],
)
def test_arrays_that_are_not_images_are_named(tmp_path: Path, values: np.ndarray, reason: str) -> None:
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(InputError, match=rf"a\.npy cannot be read: {reason}"):
        read_image(tmp_path / "a.npy")


def test_an_array_with_a_damaged_header_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 3), np.uint8))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"}", b" "))
    with pytest.raises(InputError, match=r"a\.npy cannot be read: .*EOF"):
        read_image(tmp_path / "a.npy")


def test_an_rgb_image_has_too_few_channels_for_others(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png cannot be read: it has 3 channels; the classifier takes 5"):
        load_images(tmp_path / "a.png", 4, channels=5)


def test_channels_do_not_change_rgb(tmp_path: Path) -> None:
    Image.fromarray(noise(12, 16, 3)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", noise(12, 16, 3))
    one, other = (read_resized(tmp_path / name, 8) for name in ("a.png", "a.npy"))
    assert torch.equal(one, other)
    with opened(tmp_path / "a.npy") as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_pictures_show_three_channels(channels: int, shown: list[int]) -> None:
    pixels = noise(4, 5, channels)
    assert np.array_equal(displayed(pixels), pixels[..., shown])
