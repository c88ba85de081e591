"""What the training's data modules have in common, whether the pictures lie in files or in shards."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ltx.data.cropping import Cropping
from ltx.data.reading import default_workers
from ltx.runtime.errors import InputError

Source = TypeVar("Source")


class TrainingImages(lightning.LightningDataModule):
    """Training crops and validation images.

    The training loader holds the whole training as one epoch of `max_steps * accumulate` micro-batches: use it with
    `Trainer(max_epochs=1, use_distributed_sampler=False)`. What stands at a position of its stream depends on the
    seed alone, so a run that is resumed at an optimiser step sees what the uninterrupted one would have seen.
    Resume points must lie between optimiser steps, not between the micro-batches of one.

    Workers decode and crop to uint8; on the device the batches become `{"image": float32 [B, 3, H, W] in [0, 1],
    "index": int64 [B], "name": list of B, "position": int64 [B]}`: which image it is, its file (or its shard and key),
    and its place in the stream (training only).

    Args:
        size: height and width of the batches (or one side).
        batch_size: images for each device and micro-batch.
        max_steps: optimiser steps of the whole training.
        accumulate: micro-batches for each optimiser step.
        workers: loading processes for each device; None = one a core, 8 at most.
        val_share: share that is held out for validation where no validation images are given; 0 = no validation.
        seed: of the order, the crops and what is held out.
        crop_scale, flip: see `Cropping`.
        crops: see `Cropping.each`; batches then have `"crop"` too, int64 `[B]`, the number of each image's crop.

    Raises:
        InputError: impossible numbers.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        batch_size: int,
        max_steps: int,
        accumulate: int,
        workers: int | None,
        val_share: float,
        seed: int,
        crop_scale: tuple[float, float],
        flip: bool,
        crops: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("accumulate", accumulate), ("max_steps", max_steps)):
            if value < 1:
                raise InputError(f"{name}={value}; give 1 or more")
        if not 0 <= val_share < 1:
            raise InputError(f"val_share={val_share}; give a share of the images from 0 to below 1")
        if workers is not None and workers < 0:
            raise InputError(f"workers={workers}; give 0 or more")
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.accumulate = accumulate
        self.workers = default_workers() if workers is None else workers
        self.val_share = val_share
        self.seed = seed
        self.cropping = Cropping(self.size, seed, crop_scale, flip, crops)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Pixels travel as bytes, a quarter of the traffic, and become numbers in [0, 1] on the device."""
        return {**batch, "image": batch["image"].float().div_(255)}

    @property
    @abstractmethod
    def train_count(self) -> int:
        """Training images of an epoch."""

    @property
    @abstractmethod
    def val_count(self) -> int:
        """Validation images, of all ranks."""

    @property
    @abstractmethod
    def broken_count(self) -> int:
        """How many images could not be read so far."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Which images are trained with, in the order of their indices, as text."""

    @abstractmethod
    def describe(self) -> str:
        """One line on what is trained with and validated on."""

    @abstractmethod
    def validation_images(self, count: int) -> Tensor:
        """The first `count` validation images (training images, where there are none), `[B, 3, H, W]` in [0, 1]."""

    @property
    def _rank(self) -> tuple[int, int]:
        """This process among how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    @property
    def _length(self) -> int:
        """Micro-batches of the whole training."""
        return self.max_steps * self.accumulate

    @property
    def _start(self) -> int:
        """The micro-batch that the trainer goes on from."""
        return self.trainer.global_step * self.accumulate if self.trainer is not None else 0

    def _check_validation(self) -> None:
        """Ranks that validate nothing would be waited for in vain by the others."""
        ranks = self._rank[1]
        if 0 < self.val_count < ranks:
            raise InputError(
                f"{self.val_count} validation images cannot be divided among {ranks} devices; give more by "
                "data.val_share or data.val_images, or data.val_share=0 for none"
            )

    def _loading(self) -> dict[str, Any]:
        return {
            "num_workers": self.workers,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _apart,
        }


def _apart(worker: int) -> None:
    # What tells a training to stop (Ctrl-C, torchrun's and timeout's SIGTERM) tells its whole process group. It still
    # needs its workers for the step that it ends, so they are in groups of their own; it ends them itself.
    os.setpgid(0, 0)


class StreamLoader(DataLoader[Any]):
    """Tells Lightning that it can be resumed within an epoch: where it starts follows from the trainer's step."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def hold_out(
    sources: Sequence[Source], names: Sequence[str], share: float, seed: int, kind: str
) -> tuple[list[Source], list[Source]]:
    """`sources` without a share of them, at least one, and that share, both in the order of `sources`.

    Args:
        names: one each; their hashes with the seed say which are held out, so that neither order nor place matters.
        share: from 0 to below 1; 0 = none.
        kind: what they are, for the error.

    Raises:
        InputError: none would be left to train on.
    """
    count = max(1, round(share * len(sources))) if share > 0 else 0
    if count >= len(sources):
        raise InputError(f"{len(sources)} {kind}(s) cannot be divided; give val_images, or val_share=0 for none")

    def draw(place: int) -> bytes:
        # Names of files may be any bytes, which Python keeps as surrogates.
        return hashlib.sha256(f"{seed}|{names[place]}".encode("utf-8", "surrogateescape")).digest()

    held = set(sorted(range(len(sources)), key=draw)[:count])
    return (
        [source for place, source in enumerate(sources) if place not in held],
        [source for place, source in enumerate(sources) if place in held],
    )
