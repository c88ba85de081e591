"""An explainer that does not fit on one device: parameters, gradients and optimiser state divided among all of them."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from ltx.explainers.mask_network import MaskNetwork

SMALLEST = 2**20
"""Parameters that a block must have to be gathered and freed on its own: less is not worth an exchange."""


def strategy_for(name: str) -> Strategy | str:
    """Lightning's strategy of a name: `ddp`, every device has all of the explainer, or `fsdp`, a share of it.

    Checkpoints are whole in either case.
    """
    # Of one device, "auto" makes no group at all.
    return "auto" if name == "ddp" else ModelParallelStrategy(save_distributed_checkpoint=False)


def shard(explainer: MaskNetwork, mesh: DeviceMesh) -> None:
    """Divide the explainer's parameters among the devices of each node, the same on all nodes (FSDP, Zhao et al. 2023).

    The outermost blocks of a list or sequence, and the rest together, are gathered for their pass and freed after it.
    The classifier is no module of the explainer: every device keeps all of it.
    """
    explainer.to(memory_format=torch.contiguous_format)  # a copied trunk is channels-last, which FSDP refuses
    for block in _blocks(explainer):
        fully_shard(block, mesh=mesh)
    fully_shard(explainer, mesh=mesh)
    for method in ("predict_and_encode", "decode"):  # not `encode`, which the former calls: passes do not nest
        register_fsdp_forward_method(explainer, method)


def _blocks(module: nn.Module) -> list[nn.Module]:
    found = []
    for child in module.children():
        listed = isinstance(module, (nn.ModuleList, nn.Sequential)) and not isinstance(child, nn.ModuleList)
        if listed and sum(parameter.numel() for parameter in child.parameters()) >= SMALLEST:
            found.append(child)
        else:
            found += _blocks(child)
    return found


class GatheredValidation(lightning.Callback):
    """Validates with the whole explainer on every device: ranks may have different numbers of batches, and only one
    draws the overlays, so that a pass must not wait for the other ranks. Comes after the callbacks that use it."""

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        for part in _sharded(module):
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        for part in _sharded(module):
            part.reshard()
            part.set_reshard_after_forward(part is not module.explainer, recurse=False)  # as `fully_shard` had it


def _sharded(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]
