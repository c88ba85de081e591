"""Object masks in files, as localisation reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx import InputError
from ltx.evaluation.samples import find_mask, read_masks


def test_a_mask_in_the_images_own_folder_comes_before_one_above(tmp_path: Path):
    for file in (
        "photos/a.jpg",
        "photos/cats/a.jpg",
        "photos/cats/b.jpg",
        "masks/a.png",
        "masks/cats/a.png",
        "masks/b.png",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = {
        name: find_mask(tmp_path / "masks", tmp_path / "photos" / name)
        for name in ("a.jpg", "cats/a.jpg", "cats/b.jpg")
    }
    assert found == {
        "a.jpg": tmp_path / "masks/a.png",
        "cats/a.jpg": tmp_path / "masks/cats/a.png",
        "cats/b.jpg": tmp_path / "masks/b.png",
    }


def test_what_jpeg_leaves_beside_an_edge_is_no_object(tmp_path: Path):
    mask = np.zeros((200, 200), np.uint8)
    mask[60:140, 60:140] = 255
    Image.fromarray(mask).save(tmp_path / "mask.jpg", quality=90)
    assert read_masks(tmp_path / "mask.jpg", (200, 200), (200, 200))[0].sum() == 80 * 80


def test_an_object_that_vanishes_at_the_classifiers_size_is_named(tmp_path: Path):
    mask = np.zeros((400, 400), np.uint8)
    mask[0, 0] = 255  # the nearest of 40 columns is at 5
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="no pixel left at 40x40"):
        read_masks(tmp_path / "mask.png", (400, 400), (40, 40))


def test_the_tolerance_is_fifteen_pixels_of_the_original(tmp_path: Path):
    mask = np.zeros((100, 200), np.uint8)
    mask[40:60, 102] = 1
    Image.fromarray(mask * 255).save(tmp_path / "mask.png")
    objects, near = read_masks(tmp_path / "mask.png", (200, 100), (50, 50))  # rows halve, columns shrink to a quarter
    assert objects.shape == near.shape == (1, 50, 50)
    columns = near[0, 25].nonzero().flatten()
    # Column c stands for the original column 4c + 2, which is near from 87 to 117.
    assert (columns.min().item(), columns.max().item()) == (22, 28)
    with pytest.raises(InputError, match="is 200x100 and its picture 100x200"):
        read_masks(tmp_path / "mask.png", (100, 200), (50, 50))
