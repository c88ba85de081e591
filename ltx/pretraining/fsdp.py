"""FSDP: an explainer that does not fit on one device is sharded over the devices of a node."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from ltx.explainers.mask_network import MaskNetwork

MIN_BLOCK_PARAMETERS = 2**20
"""Smallest block that is gathered and freed on its own; for fewer parameters the communication does not pay."""


def lightning_strategy(name: str) -> Strategy | str:
    """Lightning's strategy for `ddp` (the whole explainer on every device) or `fsdp` (a shard on each).

    Both write complete checkpoints, never one file per shard.
    """
    # On one device "auto" creates no process group.
    return "auto" if name == "ddp" else ModelParallelStrategy(save_distributed_checkpoint=False)


def shard_explainer(explainer: MaskNetwork, mesh: DeviceMesh) -> None:
    """Shard the explainer's parameters over a device mesh (FSDP, Zhao et al. 2023).

    The outermost large blocks of a list or sequence, and the remaining parameters together, are gathered for their
    forward and backward pass and freed after it. The classifier is not a submodule of the explainer: every device
    keeps all of it.

    Args:
        explainer: the mask network, modified in place.
        mesh: the devices of a node.
    """
    explainer.to(memory_format=torch.contiguous_format)  # a copied trunk is channels-last, which FSDP refuses
    for block in _large_blocks(explainer):
        fully_shard(block, mesh=mesh)
    fully_shard(explainer, mesh=mesh)
    for method in ("predict_and_encode", "decode"):  # not `encode`, which it calls: FSDP passes do not nest
        register_fsdp_forward_method(explainer, method)


def _large_blocks(module: nn.Module) -> list[nn.Module]:
    blocks = []
    for child in module.children():
        listed = isinstance(module, (nn.ModuleList, nn.Sequential)) and not isinstance(child, nn.ModuleList)
        if listed and sum(parameter.numel() for parameter in child.parameters()) >= MIN_BLOCK_PARAMETERS:
            blocks.append(child)
        else:
            blocks += _large_blocks(child)
    return blocks


class GatheredValidation(lightning.Callback):
    """Gather the complete explainer on every device for the duration of a validation.

    Ranks may have different numbers of validation batches, and only the first draws the overlays, so that a forward
    pass must not wait for the other ranks. Place this callback after those that use the explainer in validation.
    """

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        for part in _sharded_modules(module):
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        for part in _sharded_modules(module):
            part.reshard()
            # `fully_shard` reshards after the forward pass every module but the root.
            part.set_reshard_after_forward(part is not module.explainer, recurse=False)


def _sharded_modules(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]
