"""Batches of every data module reach the device as float32, on a fake CUDA device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ltx.data.folder import FolderData
from ltx.data.shards.making import make
from ltx.data.shards.settings import MakeConfig
from ltx.data.shards.streaming import ShardData
from ltx.data.training_images import HOST_KEYS, StreamSettings, TrainingImages
from tests.support.fake_device import CUDA, fake_cuda
from tests.support.small_inputs import write_photographs


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainingImages]:
    """Photographs in files and in shards, with training and validation images."""
    folder = tmp_path_factory.mktemp("device")
    photographs = write_photographs(folder / "photographs", (f"{index}.png" for index in range(8)), (40, 40))
    make(MakeConfig(images=str(photographs), out=str(folder / "shards"), per_shard=2))
    stream = StreamSettings(32, 2, 2, val_share=0.25, workers=0, crops=2)
    sources: dict[str, TrainingImages] = {
        "files": FolderData(photographs, stream),
        "shards": ShardData(str(folder / "shards"), stream),
    }
    for source in sources.values():
        source.setup()
    return sources


def test_every_data_module_is_tested(sources: dict[str, TrainingImages]) -> None:
    modules = [module for module in TrainingImages.__subclasses__() if module.__module__.startswith("ltx.")]
    assert {type(source) for source in sources.values()} == {*modules}


@pytest.mark.parametrize("stage", ["train", "val"])
@pytest.mark.parametrize("name", ["files", "shards"])
def test_batches_become_floats_on_the_device(sources: dict[str, TrainingImages], name: str, stage: str) -> None:
    source = sources[name]
    loader: Any = source.train_dataloader() if stage == "train" else source.val_dataloader()
    batch = next(iter(loader))
    assert batch["image"].dtype == torch.uint8, "pixels are transferred as bytes"
    with fake_cuda() as device:
        on_host = {
            key: torch.empty(value.shape, dtype=value.dtype) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }
        moved = source.transfer_batch_to_device(on_host, CUDA, 0)
        bytes_sent = moved["image"].numel() * moved["image"].element_size()
        final = source.on_after_batch_transfer(moved, 0)
        assert bytes_sent == 2 * 3 * 32 * 32
        assert final["image"].dtype == torch.float32
        tensors = {key: value for key, value in final.items() if isinstance(value, torch.Tensor)}
        assert {"image", "index"} <= set(tensors)
        for key, value in tensors.items():
            assert value.device == (torch.device("cpu") if key in HOST_KEYS else CUDA), key
        assert not [place for place in device.synchronisations if "read on the host" in place]
