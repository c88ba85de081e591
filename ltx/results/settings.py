"""Settings shared by the commands that explain files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx.config.options import option


@dataclass
class ExplainConfig:
    """The images to explain, and the folder of the results."""

    images: Any = option(
        "scikit-image",
        help="images to explain: FILE, FOLDER, GLOB, CSV, shards (….tar), a list of them, or scikit-image",
        path=True,
    )
    target: Any = option(
        "predicted", help="class to explain: predicted, an index, a name, or a list with one per image"
    )
    batch_size: int = option(16, help="images per batch")
    fit: str = option(
        "squash",
        help="squash = the full image, distorted; centre = its centre, undistorted",
        choices=["squash", "centre"],
    )
    save: str = option(
        "pictures",
        help="pictures = a .png and an .npz per image; maps = float16 maps in tar files, for data sets and torchrun",
        choices=["pictures", "maps"],
    )
    device: str = option("auto", help="auto, cpu, cuda, cuda:1, …")
    out: str = option("runs/explanations", help="folder of the results; the same command resumes there", path=True)
