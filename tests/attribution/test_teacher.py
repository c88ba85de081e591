import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from toy_models import ThreeStages, seeded

from ltx import Classifier, InputError
from ltx.attribution import attribute
from ltx.attribution.teacher import TeacherMaps
from ltx.data.images import load_images


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path in paths:
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def teacher(tmp_path, cnn):
    return TeacherMaps(tmp_path / "maps", cnn, "gradcam++", resolution=16)


def test_maps_are_the_methods_own_stretched(teacher, cnn, files):
    assert teacher.precompute(files, batch_size=2) == 3
    expected = attribute("gradcam++", cnn, load_images(files, 16))
    low, high = expected.amin((2, 3), keepdim=True), expected.amax((2, 3), keepdim=True)
    found = teacher.lookup(files, size=16)
    torch.testing.assert_close(found, (expected - low) / (high - low), rtol=0, atol=1e-3)


def test_each_map_is_made_once_and_follows_its_image(teacher, cnn, files, tmp_path):
    teacher.precompute(files[:2])
    assert teacher.precompute(files) == 1
    assert teacher.precompute(files) == 0
    moved = tmp_path / "elsewhere.png"
    shutil.copy(files[0], moved)
    assert moved in teacher
    again = TeacherMaps(teacher.folder, cnn, "gradcam++", resolution=16)
    assert again.precompute(files) == 0


@pytest.mark.parametrize("change", ["weights", "method", "option", "target", "image"])
def test_a_change_makes_the_map_again(teacher, cnn, files, change):
    teacher.precompute(files)
    classifier, method, target, options = cnn, "gradcam++", "predicted", {}
    if change == "weights":
        classifier = Classifier(seeded(ThreeStages(), 1.1), input_size=16)
    elif change == "method":
        method = "gradcam"
    elif change == "option":
        options = {"layer": "middle"}
    elif change == "target":
        target = 2
    else:
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(files[0])
    other = TeacherMaps(teacher.folder, classifier, method, target, 16, **options)
    assert files[0] not in other
    with pytest.raises(InputError, match=r"no .* map of .*a\.png; call precompute"):
        other.lookup(files)


def test_maps_are_cut_and_mirrored_like_the_image(teacher, files):
    teacher.precompute(files)
    whole = teacher.lookup(files, size=16)
    boxes = torch.tensor([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5]])
    cut = teacher.lookup(files, boxes, size=8)
    expected = torch.stack([whole[0, :, 8:, 4:12], whole[1, :, :8, :8], whole[2, :, :8, 8:]])
    torch.testing.assert_close(cut, expected, rtol=0, atol=1e-5)
    mirrored = teacher.lookup(files, boxes, torch.tensor([True, False, True]), size=8)
    torch.testing.assert_close(mirrored[0], expected[0].flip(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(mirrored[1], expected[1], rtol=0, atol=1e-5)
    assert teacher.lookup(files, size=(4, 6)).shape == (3, 1, 4, 6)


def test_files_that_cannot_be_read_are_left_out(teacher, files):
    files[1].write_bytes(b"")
    assert teacher.precompute(files) == 2
    assert list(teacher.missing(files)) == [files[1]]
    assert not [name for name in os.listdir(teacher.folder) if name.endswith(".part")]
