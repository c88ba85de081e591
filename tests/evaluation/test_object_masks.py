"""Reading of object masks for localisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx import InputError
from ltx.evaluation.samples import find_mask, read_masks


def test_masks_in_the_folder_of_the_image_take_precedence(tmp_path: Path):
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
    masks = {
        name: find_mask(tmp_path / "masks", tmp_path / "photos" / name)
        for name in ("a.jpg", "cats/a.jpg", "cats/b.jpg")
    }
    assert masks == {
        "a.jpg": tmp_path / "masks/a.png",
        "cats/a.jpg": tmp_path / "masks/cats/a.png",
        "cats/b.jpg": tmp_path / "masks/b.png",
    }


def test_jpeg_artefacts_next_to_edges_are_not_object(tmp_path: Path):
    mask = np.zeros((200, 200), np.uint8)
    mask[60:140, 60:140] = 255
    Image.fromarray(mask).save(tmp_path / "mask.jpg", quality=90)
    assert read_masks(tmp_path / "mask.jpg", (200, 200), (200, 200))[0].sum() == 80 * 80


def test_an_object_that_vanishes_at_the_input_size_raises_an_error(tmp_path: Path):
    mask = np.zeros((400, 400), np.uint8)
    mask[0, 0] = 255  # the first of 40 columns samples column 5
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="vanishes at 40x40"):
        read_masks(tmp_path / "mask.png", (400, 400), (40, 40))


def test_the_tolerance_is_fifteen_pixels_of_the_original(tmp_path: Path):
    mask = np.zeros((100, 200), np.uint8)
    mask[40:60, 102] = 1
    Image.fromarray(mask * 255).save(tmp_path / "mask.png")
    objects, near = read_masks(tmp_path / "mask.png", (200, 100), (50, 50))  # half the rows, a quarter of the columns
    assert objects.shape == near.shape == (1, 50, 50)
    columns = near[0, 25].nonzero().flatten()
    # Column c corresponds to the original column 4c + 2, which is within the tolerance from 87 to 117.
    assert (columns.min().item(), columns.max().item()) == (22, 28)
    with pytest.raises(InputError, match="is 200x100, but its picture is 100x200"):
        read_masks(tmp_path / "mask.png", (100, 200), (50, 50))
