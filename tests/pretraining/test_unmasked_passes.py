"""The cache of unmasked forward passes: equal to new passes to the bit, computed once, never confused with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltx import Classifier, InputError
from ltx.data.folder import FolderData
from ltx.data.shards.streaming import ShardData
from ltx.data.training_images import StreamSettings
from ltx.explainers.mask_network import MaskNetwork
from ltx.explainers.settings import ExplainerConfig
from ltx.pretraining.run import run_pretraining
from ltx.pretraining.unmasked_passes import UnmaskedPasses
from tests.support.small_trainings import assert_same_weights


def network(name: str, trunk: str = "shared", size: int = 64) -> MaskNetwork:
    classifier = Classifier(name, weights="random", num_classes=6, input_size=size)
    return ExplainerConfig(name="vit" if "vit" in name else "unet", trunk=trunk).build(classifier).eval()


def count_rows(explainer: MaskNetwork) -> list[int]:
    """A list that grows by the number of images at each forward pass of the classifier."""
    rows: list[int] = []
    first = next(module for module in explainer.classifier.model.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    return rows


@pytest.mark.parametrize(
    ("name", "trunk"), [("resnet18", "shared"), ("vit_tiny_patch16_224", "shared"), ("resnet18", "resnet10t")]
)
def test_stored_passes_have_the_values_and_layout_of_new_ones(tmp_path: Path, name: str, trunk: str) -> None:
    explainer = network(name, trunk)
    passes = UnmaskedPasses(tmp_path, explainer, 9, "these")
    rows = count_rows(explainer)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    keys = torch.tensor([7, 2, 0, 5])
    with torch.no_grad():
        expected_logits, expected = explainer.predict_and_encode(images)
        rows.clear()
        for cache in (passes, passes, UnmaskedPasses(tmp_path, explainer, 9, "these")):
            logits, features = cache(images, keys)
            assert torch.equal(logits, expected_logits)
            maps, expected_maps = ((*one.stages, one.final, *one.values) for one in (features, expected))
            for stored, new in zip(maps, expected_maps, strict=True):
                assert torch.equal(stored, new)
                assert stored[0].stride() == new[0].stride()
    assert [count for count in rows if count == 4] == [4], "one pass for three calls"


def test_only_missing_and_damaged_rows_pass_the_classifier(tmp_path: Path) -> None:
    explainer = network("resnet18")
    passes, rows = UnmaskedPasses(tmp_path, explainer, 9, "these"), count_rows(explainer)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = explainer.predict_and_encode(images)[0]
    rows.clear()
    passes(images[:2], torch.tensor([1, 2]))
    keys = torch.tensor([1, -1, 3, 2])  # the second became a mosaic
    logits, _ = passes(images[[0, 3, 2, 1]], keys)
    assert torch.allclose(logits, expected[[0, 3, 2, 1]], atol=1e-5)
    passes(images[[0, 3, 2, 1]], keys)
    assert rows == [2, 2, 1], "a mosaic is never stored"
    damaged = np.memmap(passes.folder / "1.bin", dtype=np.uint8, mode="r+")
    row_bytes = len(damaged) // 9
    damaged[2 * row_bytes + 17] ^= 1
    rows.clear()
    assert torch.allclose(passes(images[:2], torch.tensor([1, 2]))[0], logits[[0, 3]], atol=1e-5)
    assert rows == [1], "only the row whose checksum is wrong"


def test_changed_pixels_under_the_same_key_pass_the_classifier(tmp_path: Path) -> None:
    """Image files may be replaced: shards that were rebuilt, a damaged file that was restored."""
    explainer = network("resnet18")
    passes, rows = UnmaskedPasses(tmp_path, explainer, 9, "these"), count_rows(explainer)
    images = torch.randint(256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0)) / 255
    keys = torch.tensor([3, 1, 4, 2])
    passes(images, keys)
    changed = images.clone()
    changed[2, 1, 5, 6] = (changed[2, 1, 5, 6] + 1 / 255) % 1.001
    rows.clear()
    logits = passes(changed, keys)[0]
    assert rows == [1], "only the image with one value changed by 1/255"
    assert torch.allclose(logits, explainer.predict_and_encode(changed)[0], atol=1e-5)


def test_each_classifier_and_each_set_of_crops_has_its_own_folder(tmp_path: Path) -> None:
    first, second = network("resnet18"), network("resnet18")
    with torch.no_grad():
        second.classifier.model.fc.bias += 1
    folders = {
        UnmaskedPasses(tmp_path, explainer, 9, crops).folder for explainer in (first, second) for crops in ("a", "b")
    }
    assert len(folders) == 4
    with pytest.raises(InputError, match=r"data\.cache=.* needs [\d.]+ GB, .* are free; use fewer data\.crops"):
        UnmaskedPasses(tmp_path, first, 10**12, "a")


def crops_of(data: FolderData | ShardData) -> dict[tuple[str, int], list[Tensor]]:
    """The crops of each (image, number of the crop), in the order of the stream."""
    data.setup()
    crops: dict[tuple[str, int], list[Tensor]] = {}
    for batch in data.train_dataloader():
        for image, name, crop in zip(batch["image"], batch["name"], batch["crop"].tolist(), strict=True):
            crops.setdefault((name, crop), []).append(image)
    return crops


@pytest.mark.parametrize("source", ["files", "shards"])
def test_each_image_cycles_through_its_crops(photos: Path, shards: Path, source: str) -> None:
    settings = StreamSettings(size=16, batch_size=2, max_steps=20, workers=0, val_share=0, crops=2)
    data = FolderData(photos, settings) if source == "files" else ShardData(shards, settings)
    crops = crops_of(data)  # four epochs of ten images
    assert sorted(crop for _, crop in crops) == list(range(20)), "a number for each crop of each image"
    assert all(len(repeats) == 2 and torch.equal(*repeats) for repeats in crops.values())
    names = {name for name, _ in crops}
    assert len(names) == 10
    for name in names:
        first, second = (repeats[0] for (owner, _), repeats in crops.items() if owner == name)
        assert not torch.equal(first, second)


@pytest.mark.parametrize("explainer", ["unet", pytest.param("inr", marks=pytest.mark.slow)])
def test_a_training_with_the_cache_ends_with_the_same_weights(config_for: Any, tmp_path: Path, explainer: str) -> None:
    words = ["data.crops=1", "data.mosaic=0", f"explainer.name={explainer}"]
    plain = run_pretraining(config_for("plain", *words))  # three epochs of eight images
    for name in ("fills the cache", "reads the cache"):
        cached = run_pretraining(config_for(name, *words, f"data.cache={tmp_path / 'passes'}"))
        assert_same_weights(plain, cached)
    assert len(list((tmp_path / "passes").iterdir())) == 1


def test_the_cache_needs_repeated_crops(config_for: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs crops that are repeated; set data\.crops=4"):
        run_pretraining(config_for("run", f"data.cache={tmp_path}"))
    with pytest.raises(InputError, match="crops=0; give 1 or more"):
        run_pretraining(config_for("run", "data.crops=0"))
