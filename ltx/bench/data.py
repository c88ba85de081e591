"""Decoding and cropping, compared with torchvision's and timm's loaders on the same files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from ltx.bench.settings import DataBench
from ltx.bench.timing import median_ratio, medians, take_turns
from ltx.data.finding import find_images
from ltx.data.folder import FolderData
from ltx.data.reading import read_image
from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig
from ltx.data.shards.streaming import ShardData
from ltx.data.training_images import StreamSettings


def measure(config: DataBench) -> None:
    """Print images/s of each loader for the same JPEGs and crop settings, and the ratios between loaders."""
    scale = (config.crop_scale[0], config.crop_scale[1])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos" / "class"
        folder.mkdir(parents=True)
        write_jpegs(config, folder)
        make(MakeConfig(images=str(folder), out=f"{place}/shards", per_shard=max(1, config.count // 8)))
        steps = config.count // config.batch_size
        stream = StreamSettings(
            config.size, config.batch_size, steps, val_share=0, workers=config.workers, crop_scale=scale
        )
        files, shards = FolderData(folder, stream), ShardData(f"{place}/shards", stream)
        for source in (files, shards):
            source.setup()
        loaders: dict[str, Callable[[], Any]] = {
            "files": files.train_dataloader,
            "shards": shards.train_dataloader,
            "torchvision ImageFolder, RandomResizedCrop": lambda: _torchvision(config, folder.parent, scale),
            "timm create_loader, no colour jitter": lambda: timm_loader(config, folder.parent, scale, 0.0),
            "timm create_loader, its defaults": lambda: timm_loader(config, folder.parent, scale, 0.4),
        }
        seconds = take_turns(
            {name: read_all(loader, steps) for name, loader in loaders.items()}, config.repeats, torch.device("cpu")
        )
    median, images = medians(seconds), steps * config.batch_size
    print(
        f"{config.count} JPEGs of {config.side} px to {config.size}, crops of {scale[0]} to {scale[1]} of the area, "
        f"{config.workers} workers, median of {config.repeats} turns"
    )
    ours = ("files", "shards")
    for name, value in median.items():
        ratios = ", ".join(
            f"{source} are {median_ratio(seconds[name], seconds[source]):.2f} x as fast" for source in ours
        )
        print(f"  {images / value:8.1f} images/s  {name}" + ("" if name in ours else f": {ratios}"))


def read_all(loader: Callable[[], Any], steps: int) -> Callable[[], None]:
    """A function that reads `steps` batches of a new iterator."""

    def read() -> None:
        for step, _ in enumerate(loader(), start=1):
            if step == steps:
                return

    return read


def _torchvision(config: DataBench, folder: Path, scale: tuple[float, float]) -> DataLoader[Any]:
    steps = [
        transforms.RandomResizedCrop(config.size, scale=scale),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    dataset = ImageFolder(str(folder), transforms.Compose(steps))
    return DataLoader(dataset, config.batch_size, shuffle=True, num_workers=config.workers, drop_last=True)


def timm_loader(config: DataBench, folder: Path, scale: tuple[float, float], jitter: float) -> Any:
    """timm's training loader for a folder of class folders."""
    return create_loader(
        create_dataset("", root=str(folder)),
        (3, config.size, config.size),
        config.batch_size,
        is_training=True,
        scale=scale,
        color_jitter=jitter,
        num_workers=config.workers,
        persistent_workers=False,
        device=torch.device("cpu"),
    )


def write_jpegs(config: DataBench, folder: Path) -> None:
    """Write `count` JPEGs with a longer side of `side` pixels."""
    files = find_images(config.images)
    for index in range(config.count):
        image = read_image(files[index % len(files)]).rotate(90 * (index // len(files)), expand=True)
        factor = config.side / max(image.size)
        shape = round(factor * image.width), round(factor * image.height)
        image.resize(shape, Image.Resampling.LANCZOS).save(folder / f"{index:05d}.jpg", quality=90)
