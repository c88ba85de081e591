"""Decoding and random crops of one epoch of JPEGs, next to timm's loader."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ltx.bench.data import read_all, timm_loader, write_jpegs
from ltx.bench.peers.pair import Inputs, Pair
from ltx.bench.settings import DataBench
from ltx.data.folder import FolderData
from ltx.data.training_images import StreamSettings


def loading(inputs: Inputs) -> Pair:
    """Our folder data module, next to timm's loader without colour jitter; one core, the same JPEGs and crops."""
    config = DataBench(images=inputs.config.images, count=32, batch_size=16)
    scale = (config.crop_scale[0], config.crop_scale[1])
    place = tempfile.TemporaryDirectory()
    folder = Path(place.name) / "photographs" / "class"
    folder.mkdir(parents=True)
    write_jpegs(config, folder)
    steps = config.count // config.batch_size
    data = FolderData(
        folder, StreamSettings(config.size, config.batch_size, steps, val_share=0, workers=0, crop_scale=scale)
    )
    data.setup()
    theirs = read_all(lambda: timm_loader(config, folder.parent, scale, 0.0), steps)

    def run_ours(_: object = place) -> None:  # the folder lives as long as this function
        read_all(data.train_dataloader, steps)()

    return Pair(
        run_ours,
        theirs,
        f"{config.count} JPEGs of {config.side} px, crops of {config.size}, no colour jitter, one core",
    )
