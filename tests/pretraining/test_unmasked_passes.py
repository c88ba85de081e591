"""Kept passes of the classifier: the same bytes as new ones, made once, and never taken for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltx import Classifier, InputError, load
from ltx.data.folder import FolderData
from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig
from ltx.data.shards.streaming import ShardData
from ltx.data.training_images import StreamSettings
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.pretraining.run import pretrain
from ltx.pretraining.unmasked_passes import UnmaskedPasses


def network(name: str, trunk: str = "shared", size: int = 64) -> MaskNetwork:
    classifier = Classifier(name, weights="random", num_classes=6, input_size=size)
    return ExplainerConfig(name="vit" if "vit" in name else "unet", trunk=trunk).build(classifier).eval()


def counted(explainer: MaskNetwork) -> list[int]:
    """Grows by the number of images at each pass of the classifier."""
    seen: list[int] = []
    first = next(module for module in explainer.classifier.model.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize(
    ("name", "trunk"), [("resnet18", "shared"), ("vit_tiny_patch16_224", "shared"), ("resnet18", "resnet10t")]
)
def test_what_is_kept_has_the_bytes_and_the_layout_of_what_was_computed(tmp_path: Path, name: str, trunk: str) -> None:
    explainer = network(name, trunk)
    passes = UnmaskedPasses(tmp_path, explainer, 9, "these")
    seen = counted(explainer)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    keys = torch.tensor([7, 2, 0, 5])
    with torch.no_grad():
        logits, found = explainer.predict_and_encode(images)
        seen.clear()
        for turn in (passes, passes, UnmaskedPasses(tmp_path, explainer, 9, "these")):
            kept, features = turn(images, keys)
            assert torch.equal(kept, logits)
            for own, new in zip((*features.stages, features.final), (*found.stages, found.final), strict=True):
                assert torch.equal(own, new)
                assert own[0].stride() == new[0].stride()
    assert [count for count in seen if count == 4] == [4], "one pass for three turns"


def test_only_what_is_missing_passes_the_classifier(tmp_path: Path) -> None:
    explainer = network("resnet18")
    passes, seen = UnmaskedPasses(tmp_path, explainer, 9, "these"), counted(explainer)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = explainer.predict_and_encode(images)[0]
    seen.clear()
    passes(images[:2], torch.tensor([1, 2]))
    mixed = torch.tensor([1, -1, 3, 2])  # the second became a mosaic
    logits, _ = passes(images[[0, 3, 2, 1]], mixed)
    assert torch.allclose(logits, whole[[0, 3, 2, 1]], atol=1e-5)
    passes(images[[0, 3, 2, 1]], mixed)
    assert seen == [2, 2, 1], "a mosaic is never kept"
    file = passes.folder / "1.bin"
    damaged = np.memmap(file, dtype=np.uint8, mode="r+")
    row = len(damaged) // 9
    damaged[2 * row + 17] ^= 1
    seen.clear()
    assert torch.allclose(passes(images[:2], torch.tensor([1, 2]))[0], logits[[0, 3]], atol=1e-5)
    assert seen == [1], "the row whose checksum is wrong, and no other"


def test_other_pixels_under_the_same_key_pass_the_classifier(tmp_path: Path) -> None:
    """As where images change that lie in the same place: shards made anew, a file that was damaged and is whole now."""
    explainer = network("resnet18")
    passes, seen = UnmaskedPasses(tmp_path, explainer, 9, "these"), counted(explainer)
    images = torch.randint(256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0)) / 255
    keys = torch.tensor([3, 1, 4, 2])
    passes(images, keys)
    changed = images.clone()
    changed[2, 1, 5, 6] = (changed[2, 1, 5, 6] + 1 / 255) % 1.001
    seen.clear()
    logits = passes(changed, keys)[0]
    assert seen == [1], "the picture one of whose values is another by 1/255"
    assert torch.allclose(logits, explainer.predict_and_encode(changed)[0], atol=1e-5)


def test_another_classifier_or_another_crop_has_passes_of_its_own(tmp_path: Path) -> None:
    first, second = network("resnet18"), network("resnet18")
    with torch.no_grad():
        second.classifier.model.fc.bias += 1
    folders = {
        UnmaskedPasses(tmp_path, explainer, 9, crops).folder for explainer in (first, second) for crops in ("a", "b")
    }
    assert len(folders) == 4
    with pytest.raises(InputError, match=r"data\.cache=.* needs [\d.]+ GB, .* are free; use fewer data\.crops"):
        UnmaskedPasses(tmp_path, first, 10**12, "a")


def shown(data: FolderData | ShardData) -> dict[tuple[str, int], list[Tensor]]:
    """The crops of each (image, number of the crop), in the order of the stream."""
    data.setup()
    found: dict[tuple[str, int], list[Tensor]] = {}
    for batch in data.train_dataloader():
        for image, name, crop in zip(batch["image"], batch["name"], batch["crop"].tolist(), strict=True):
            found.setdefault((name, crop), []).append(image)
    return found


@pytest.mark.parametrize("source", ["files", "shards"])
def test_each_image_has_its_crops_and_they_come_again(photos: Path, tmp_path: Path, source: str) -> None:
    settings = StreamSettings(size=16, batch_size=2, max_steps=20, workers=0, val_share=0, crops=2)
    make(MakeConfig(images=str(photos), out=str(tmp_path / "shards"), per_shard=4))
    data = FolderData(photos, settings) if source == "files" else ShardData(tmp_path / "shards", settings)
    found = shown(data)  # four epochs of ten images
    assert sorted(crop for _, crop in found) == list(range(20)), "a number for each crop of each image"
    assert all(len(crops) == 2 and torch.equal(*crops) for crops in found.values())
    names = {name for name, _ in found}
    assert len(names) == 10
    for name in names:
        first, second = (crops[0] for (owner, _), crops in found.items() if owner == name)
        assert not torch.equal(first, second)


@pytest.mark.parametrize("explainer", ["unet", pytest.param("inr", marks=pytest.mark.slow)])
def test_a_training_with_kept_passes_ends_with_the_same_bytes(
    config_for: Any, photos: Path, tmp_path: Path, explainer: str
) -> None:
    words = ["data.crops=1", "data.mosaic=0", f"explainer.name={explainer}"]
    plain = pretrain(config_for(photos, tmp_path / "plain", *words))  # three epochs of eight images
    cached = pretrain(config_for(photos, tmp_path / "cached", *words, f"data.cache={tmp_path / 'passes'}"))
    again = pretrain(config_for(photos, tmp_path / "again", *words, f"data.cache={tmp_path / 'passes'}"))
    first = load(plain).state_dict()
    for other in (load(cached).state_dict(), load(again).state_dict()):
        assert all(torch.equal(first[key], other[key]) for key in first)
    assert len(list((tmp_path / "passes").iterdir())) == 1


def test_kept_passes_need_crops_that_come_again(config_for: Any, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no crop comes again; set data\.crops=4"):
        pretrain(config_for(photos, tmp_path / "run", f"data.cache={tmp_path}"))
    with pytest.raises(InputError, match="crops=0; give 1 or more"):
        pretrain(config_for(photos, tmp_path / "run", "data.crops=0"))
