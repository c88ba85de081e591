"""`ltx attribute`: the files it writes, resumption, and mistakes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ltx import Classifier, InputError
from ltx.attribution.attribute import attribute
from ltx.attribution.settings import AttributeConfig
from ltx.cli.attribute import attribute_files
from ltx.config.command_line import parse

WORDS = [
    "classifier.name=resnet18",
    "classifier.weights=random",
    "classifier.num_classes=4",
    "classifier.input_size=64",
]


def settings(*words: str) -> AttributeConfig:
    return parse(AttributeConfig, [*WORDS, "device=cpu", *words], "attribute", "")


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name in ("pictures/one.png", "pictures/inner/one.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_the_written_map_explains_the_written_pixels(folder):
    config = settings("method=layercam", f"images={folder}/pictures", f"out={folder}/out", "target=2")
    torch.manual_seed(0)
    attribute_files(config)
    torch.manual_seed(0)
    classifier = config.classifier.build()
    lines = [json.loads(line) for line in (folder / "out/explanations.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == ["layercam"] * 2
    for stem in ("one", "inner/one"):
        arrays = np.load(folder / f"out/{stem}.npz")
        image = torch.from_numpy(arrays["image"]).permute(2, 0, 1)[None] / 255
        expected = attribute("layercam", classifier, image, 2)[0, 0].numpy()
        np.testing.assert_allclose(arrays["map"], expected, rtol=1e-3, atol=1e-5)
        assert (folder / f"out/{stem}.png").is_file()
        assert f"{stem}.png" in (folder / "out/index.html").read_text()
        line = next(line for line in lines if line["image"] == str(folder / f"pictures/{stem}.png"))
        assert line["target"] == 2
        assert line["probability"] == pytest.approx(classifier(image).softmax(1)[0, 2].item(), abs=1e-5)
        assert line["mask_mean"] is None


def test_the_same_command_explains_only_missing_images(folder, capsys):
    config = settings("method=gradcam", f"images={folder}/pictures", f"out={folder}/out")
    attribute_files(config)
    first = (folder / "out/explanations.jsonl").read_text()
    attribute_files(config)
    assert (folder / "out/explanations.jsonl").read_text() == first
    assert "2 of 2 images are explained already" in capsys.readouterr().out


def test_a_class_name_with_a_new_index_is_refused(folder):
    def explain(*names):
        (folder / "names.txt").write_text("\n".join(names))
        words = [f"classifier.class_names={folder}/names.txt", "target=rust", f"out={folder}/out"]
        torch.manual_seed(0)
        attribute_files(settings("method=gradcam", f"images={folder}/pictures", *words))

    explain("a", "rust", "c", "d")
    with pytest.raises(InputError, match=r"made with target=1, now 3"):
        explain("a", "b", "c", "rust")
    lines = [json.loads(line) for line in (folder / "out/explanations.jsonl").read_text().splitlines()]
    assert [line["target"] for line in lines] == [1, 1]


def test_max_batch_bounds_every_forward_pass(folder, monkeypatch):
    passes = []
    predict = Classifier.__call__
    monkeypatch.setattr(
        Classifier, "__call__", lambda self, images: (passes.append(len(images)), predict(self, images))[1]
    )
    words = ["method=rise", "options.masks=4", "options.cells=2", f"images={folder}/pictures"]
    attribute_files(settings(*words, "max_batch=1", f"out={folder}/one"))
    assert max(passes) == 1
    attribute_files(settings(*words, "options.max_batch=1", f"out={folder}/two"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["method=gae"], "method=gae does not work: resnet18 .*; methods that work on it: iia,"),
        (["method=iia2", "options.step=3"], "no option 'step'; did you mean steps"),
        (["method=iia2", "options.steps=x"], "steps='x' is not a valid integer"),
        (["method=gradcan"], "method=gradcan is not allowed; allowed: iia,"),
        (["method=gradcam", "target=9"], "target=9 is not a class"),
        (["method=gradcam", "options.layer=3"], "'3' is not a module"),
    ],
)
def test_mistakes_are_refused_before_any_work(folder, words, text):
    with pytest.raises(InputError, match=text):
        attribute_files(settings(*words, f"images={folder}/pictures", f"out={folder}/out"))
    assert not (folder / "out").exists()


def test_constant_maps_are_named(folder, capsys, monkeypatch):
    def zeros(method, classifier, images, targets, **_):
        return torch.zeros(len(images), 1, 64, 64)

    monkeypatch.setattr("ltx.cli.attribute.attribute", zeros)
    attribute_files(settings("method=gradcam", f"images={folder}/pictures", f"out={folder}/out"))
    printed = capsys.readouterr().out
    assert "warning: 2 constant maps, which do not rank pixels" in printed
    assert "one.png" in printed
