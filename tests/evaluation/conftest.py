"""Fixtures shared by the tests of evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx.checkpoints.folder import save_checkpoint
from ltx.explainers.settings import ExplainerConfig
from tests.support.small_evaluations import small_classifier
from tests.support.small_inputs import write_weights


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """Weights of a small classifier, six photographs with labels and masks, and a checkpoint."""
    folder = tmp_path_factory.mktemp("place")
    write_weights(folder)
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    rows = ["file,class_index"]
    for index in range(6):
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((90, 70), Image.Resampling.BICUBIC).save(folder / "images" / f"{index}.png")
        mask = np.zeros((70, 90), np.uint8)
        mask[10:40, 20 + 5 * index : 60] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
        rows.append(f"images/{index}.png,{index % 4}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    classifier = small_classifier(folder).build()
    settings = ExplainerConfig(name="unet", width=4)
    save_checkpoint(folder / "checkpoint", settings.build(classifier), {"explainer": {"name": "unet", "width": 4}})
    return folder
