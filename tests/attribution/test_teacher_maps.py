import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ltx import Classifier, InputError
from ltx.attribution.attribute import attribute
from ltx.attribution.teacher_maps import TeacherMaps
from ltx.data.reading import load_images
from tests.support.toy_models import ThreeStages, seeded


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


def test_stored_maps_are_normalised_maps_of_the_predicted_class(teacher, cnn, files):
    assert teacher.precompute(files, batch_size=2) == 3
    images = load_images(files, 16)
    expected = attribute("gradcam++", cnn, images)
    low, high = expected.amin((2, 3), keepdim=True), expected.amax((2, 3), keepdim=True)
    maps, targets = teacher.stored.lookup(files)
    torch.testing.assert_close(maps, (expected - low) / (high - low), rtol=0, atol=1e-3)
    assert torch.equal(targets, cnn(images).argmax(1))


def test_max_batch_may_be_an_option_of_the_method(tmp_path, cnn, files):
    teachers = [TeacherMaps(tmp_path / name, cnn, "iia2", resolution=16, **few) for name, few in OPTIONS.items()]
    assert [teacher.precompute(files) for teacher in teachers] == [3, 3]
    one, other = (teacher.stored.lookup(files)[0] for teacher in teachers)
    torch.testing.assert_close(one, other, rtol=0, atol=2e-3)


def test_a_file_without_permission_is_left_to_the_reader_of_the_images(teacher, files, monkeypatch):
    """Tests may run as root, who may read everything."""
    opened = Path.open

    def refuse(path, *args, **options):
        if path == files[1]:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert teacher.precompute(files) == 2
    assert [file in teacher.stored for file in files] == [True, False, True]


OPTIONS = {"plain": {"steps": 3}, "few": {"steps": 3, "max_batch": 2}}


def test_each_map_is_computed_once_and_found_by_image_content(teacher, cnn, files, tmp_path):
    teacher.precompute(files[:2])
    done = []
    assert teacher.precompute([*files, files[0]], advance=done.append) == 1
    assert sum(done) == 3
    assert teacher.precompute(files) == 0
    moved = tmp_path / "elsewhere.png"
    shutil.copy(files[0], moved)
    assert moved in teacher.stored
    again = TeacherMaps(teacher.stored.folder, cnn, "gradcam++", resolution=16)
    assert again.precompute(files) == 0


@pytest.mark.parametrize("change", ["weights", "precision", "method", "option", "resolution", "image"])
def test_a_change_recomputes_the_map(teacher, cnn, files, change):
    teacher.precompute(files)
    classifier, method, resolution, options = cnn, "gradcam++", 16, {}
    if change == "weights":
        classifier = Classifier(seeded(ThreeStages(), 1.1), input_size=16)
    elif change == "precision":
        mean, std = (value.flatten().tolist() for value in cnn.normalisation)
        classifier = Classifier(seeded(ThreeStages()), input_size=16, mean=mean, std=std, precision="bf16")
        assert classifier.fingerprint() == cnn.fingerprint()
    elif change == "method":
        method = "gradcam"
    elif change == "option":
        options = {"layer": "middle"}
    elif change == "resolution":
        resolution = 8
    else:
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(files[0])
    other = TeacherMaps(teacher.stored.folder, classifier, method, resolution, **options)
    assert files[0] not in other.stored
    with pytest.raises(InputError, match=r"contains no map of .*a\.png; run the same command again"):
        other.stored.lookup(files)


def test_maps_are_cropped_and_flipped_like_the_image(teacher, files):
    teacher.precompute(files)
    whole, _ = teacher.stored.lookup(files)
    boxes = torch.tensor([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5]])
    cut, _ = teacher.stored.lookup(files, boxes, size=8)
    expected = torch.stack([whole[0, :, 8:, 4:12], whole[1, :, :8, :8], whole[2, :, :8, 8:]])
    torch.testing.assert_close(cut, expected, rtol=0, atol=1e-5)
    mirrored, _ = teacher.stored.lookup(files, boxes, torch.tensor([True, False, True]), size=8)
    torch.testing.assert_close(mirrored[0], expected[0].flip(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(mirrored[1], expected[1], rtol=0, atol=1e-5)
    assert teacher.stored.lookup(files, size=(4, 6))[0].shape == (3, 1, 4, 6)


def test_unreadable_files_are_skipped_every_time(teacher, files):
    files[1].write_bytes(b"")
    done = []
    assert teacher.precompute(files, advance=done.append) == 2
    assert teacher.precompute(files, advance=done.append) == 0
    assert sum(done) == 2 * 3
    assert [file in teacher.stored for file in files] == [True, False, True]
    assert not [name for name in os.listdir(teacher.stored.folder) if name.endswith(".part")]


def test_invalid_settings_are_refused_before_any_work(tmp_path, cnn):
    with pytest.raises(InputError, match=r"method=gae does not work: .*; methods that work on it: iia, "):
        TeacherMaps(tmp_path, cnn, "gae")
    with pytest.raises(InputError, match="gradcam has no option 'steps'"):
        TeacherMaps(tmp_path, cnn, "gradcam", steps=3)
    with pytest.raises(InputError, match="resolution=1"):
        TeacherMaps(tmp_path, cnn, "gradcam", resolution=1)
