"""The base of the training data modules, for images in files and in shards."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from ltx.data.cropping import Cropping
from ltx.data.finding import Spec
from ltx.data.image_batches import default_workers
from ltx.runtime.errors import InputError

Source = TypeVar("Source")

HOST_KEYS = ("position", "index", "crop")
"""Numbers of a batch that only the host reads: random seeds and keys of a cache."""


@dataclass(frozen=True)
class StreamSettings:
    """Settings of a training stream and of its validation images.

    Attributes:
        size: height and width of the batches, or one side.
        batch_size: images per device and micro-batch.
        max_steps: optimiser steps of the whole training.
        accumulate: micro-batches per optimiser step.
        val_images: validation images; None = hold out `val_share` of the training images.
        val_share: share held out for validation if there are no `val_images`; 0 = no validation.
        workers: loading processes per device; None = one per core, at most 8.
        seed: random seed of the order, the crops and the held-out images.
        crop_scale: see `Cropping.scale`.
        flip: see `Cropping.flip`.
        crops: see `Cropping.crops_per_image`.
        channels: channels of the images, see `ltx.data.reading.decoded`.

    Raises:
        InputError: a number out of its range.
    """

    size: int | tuple[int, int]
    batch_size: int
    max_steps: int
    accumulate: int = 1
    val_images: Spec | None = None
    val_share: float = 0.1
    workers: int | None = None
    seed: int = 0
    crop_scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    crops: int | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "max_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}; give 1 or more")
        if not 0 <= self.val_share < 1:
            raise InputError(f"val_share={self.val_share}; give a share of the images from 0 to below 1")
        if self.workers is not None and self.workers < 0:
            raise InputError(f"workers={self.workers}; give 0 or more")
        self.cropping()  # checks its own settings

    @property
    def height_and_width(self) -> tuple[int, int]:
        """`size` as a pair."""
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])

    def cropping(self) -> Cropping:
        """The random crops of the stream."""
        return Cropping(self.height_and_width, self.seed, self.crop_scale, self.flip, self.crops, self.channels)


class TrainingImages(lightning.LightningDataModule):
    """Training crops and validation images.

    The training loader presents the whole training as one epoch of `max_steps * accumulate` micro-batches; use it with
    `Trainer(max_epochs=1, use_distributed_sampler=False)`. The content of each position of the stream depends only on
    the seed, so a run that resumes at an optimiser step sees the same batches as an uninterrupted run. Resume points
    must lie between optimiser steps, not between the micro-batches of one step.

    Workers decode and crop to uint8. On the device a batch becomes

    - `image`: float32 `[B, C, H, W]` in [0, 1];
    - `index`: int64 `[B]`, index of the image;
    - `name`: list of B file names, or shard and key;
    - `position`: int64 `[B]`, position in the stream (training only);
    - `crop`: int64 `[B]`, number of the crop (training only, if `crops` is set).

    Args:
        settings: what the stream shows.
    """

    def __init__(self, settings: StreamSettings) -> None:
        super().__init__()
        self.settings = settings
        self.size = settings.height_and_width
        self.batch_size = settings.batch_size
        self.val_images = settings.val_images
        self.val_share = settings.val_share
        self.seed = settings.seed
        self.workers = default_workers() if settings.workers is None else settings.workers
        self.cropping = settings.cropping()
        self.channels = settings.channels

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device, except for `HOST_KEYS`: reading them from a GPU would wait for it."""
        on_host = {key: batch[key] for key in HOST_KEYS if key in batch}
        rest = {key: value for key, value in batch.items() if key not in on_host}
        return super().transfer_batch_to_device(rest, device, dataloader_idx) | on_host

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Convert pixels to [0, 1] on the device: as bytes they need a quarter of the transfer."""
        return {**batch, "image": batch["image"].float().div_(255)}

    @property
    @abstractmethod
    def train_count(self) -> int:
        """Number of training images."""

    @property
    @abstractmethod
    def val_count(self) -> int:
        """Number of validation images, over all ranks."""

    @property
    @abstractmethod
    def broken_count(self) -> int:
        """Number of images that could not be read so far."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Text that identifies the training images and their order."""

    @cached_property
    def digest(self) -> str:
        """Hash of `identity`, computed once: every resume point contains it."""
        return hashlib.sha256(self.identity.encode(errors="surrogateescape")).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Identifies the training images, so that a resumed run can tell whether they changed."""
        return {"images": self.digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the images with those of the interrupted run; warns if they differ."""
        if state_dict.get("images") not in (None, self.digest):
            rank_zero_warn(
                "the training images are not those of the interrupted run (another path, size or modification time); "
                "it resumes with the present ones"
            )

    @abstractmethod
    def describe(self) -> str:
        """One line on the training and validation images."""

    @abstractmethod
    def validation_images(self, count: int) -> Tensor:
        """The first `count` validation images, or training images if there are none, `[B, 3, H, W]` in [0, 1]."""

    @property
    def _rank(self) -> tuple[int, int]:
        """Rank of this process, and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    @property
    def _length(self) -> int:
        """Micro-batches of the whole training."""
        return self.settings.max_steps * self.settings.accumulate

    @property
    def _start(self) -> int:
        """The micro-batch at which the trainer starts or resumes."""
        return self.trainer.global_step * self.settings.accumulate if self.trainer is not None else 0

    def _check_validation(self) -> None:
        """Refuse fewer validation images than ranks: a rank without any would block the others."""
        ranks = self._rank[1]
        if 0 < self.val_count < ranks:
            raise InputError(
                f"{self.val_count} validation images cannot be divided among {ranks} devices; give more with "
                "data.val_share or data.val_images, or set data.val_share=0 for none"
            )

    def _loading(self) -> dict[str, Any]:
        return {
            "num_workers": self.workers,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _separate_process_group,
        }


def _separate_process_group(worker: int) -> None:
    # Ctrl-C and the SIGTERM of torchrun and timeout go to the whole process group. The training still needs its
    # workers to finish its current step, so they get groups of their own; the training process ends them itself.
    os.setpgid(0, 0)


class StreamLoader(DataLoader[Any]):
    """A loader that Lightning may resume within an epoch: its start follows from the trainer's step."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def hold_out(
    sources: Sequence[Source], names: Sequence[str], share: float, seed: int, kind: str
) -> tuple[list[Source], list[Source]]:
    """Hold out a share of `sources`, at least one.

    Args:
        sources: files or shards.
        names: a name for each source. The held-out ones follow from hashes of seed and name, so neither the order nor
            the location matters.
        share: from 0 to below 1; 0 = none.
        seed: random seed.
        kind: noun for the error message.

    Returns:
        The remaining sources and the held-out ones, both in the order of `sources`.

    Raises:
        InputError: no source would remain.
    """
    count = max(1, round(share * len(sources))) if share > 0 else 0
    if count >= len(sources):
        raise InputError(f"{len(sources)} {kind}(s) cannot be divided; give val_images, or val_share=0 for none")

    def draw(place: int) -> bytes:
        # File names may be arbitrary bytes, which Python represents as surrogates.
        return hashlib.sha256(f"{seed}|{names[place]}".encode("utf-8", "surrogateescape")).digest()

    held_out = set(sorted(range(len(sources)), key=draw)[:count])
    return (
        [source for place, source in enumerate(sources) if place not in held_out],
        [source for place, source in enumerate(sources) if place in held_out],
    )
