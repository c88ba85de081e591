"""Small photographs and weights in files, which tests of whole commands start from."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file


def write_weights(folder: Path) -> Path:
    """The file `weights.safetensors` of a `resnet10t` with four classes."""
    torch.manual_seed(0)
    file = folder / "weights.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=4).state_dict(), file)
    return file


def write_photographs(
    folder: Path, names: Iterable[str], size: tuple[int, int], cells: tuple[int, int] | None = None, seed: int = 0
) -> Path:
    """Pictures of `size` (height, width) below a folder, which is made: noise, or blobs where the noise has `cells`."""
    random = np.random.default_rng(seed)
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(random.integers(0, 256, (*(cells or size), 3), dtype=np.uint8))
        (noise.resize(size[::-1], Image.Resampling.BICUBIC) if cells else noise).save(file)
    return folder


def taught_by_gradcam(tmp_path: Path) -> list[str]:
    return ["objective.teacher.weight=[[0,5],[0.5,0]]", "teacher.method=gradcam", f"teacher.cache={tmp_path / 'maps'}"]


def close_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder that cannot be listed. Tests may run as root, who may list everything."""
    folder.mkdir()
    listed = os.scandir

    def scan(place: str | Path = ".") -> Any:
        if Path(place) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scan)
    return folder
