"""A network with parameters of its own for each image."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ltx.classifier.feature_maps import Features
from ltx.explainers.mask_network import MaskNetwork
from ltx.runtime.private_api import tree_map


class Copies:
    """One copy of an explainer's adapted parameters for each image, stacked, and the pass that uses them.

    A GPU runs all copies in one batched pass. A CPU runs one after the other: it is busy with one image already, and
    its convolutions with a single set of weights take less than half of the batched products' time.

    Args:
        explainer: the network that is copied; not changed.
        scope: see `MaskNetwork.scope`.
        count: number of images.
        found: the images' features, read where all copies have the explainer's own trunk.
        images: `[B, 3, H, W]`, read where they do not.
        starts: networks of the explainer's kind whose parameters the copies start from, one an image; None = the
            explainer's own.
        batched: whether all copies run in one pass; None = not on a CPU.
    """

    def __init__(
        self,
        explainer: MaskNetwork,
        scope: str,
        count: int,
        found: Features,
        images: Tensor,
        starts: Sequence[MaskNetwork] | None = None,
        batched: bool | None = None,
    ) -> None:
        self.explainer = _apart(explainer)
        self.batched = images.device.type != "cpu" if batched is None else batched
        # Under vmap, torch 2.15 returns wrong gradients of normalisation layers for channels-last tensors.
        self.found = tree_map(Tensor.contiguous, found)
        self.images = images.contiguous()
        adapted = set(explainer.scope(scope))
        every = {**dict(explainer.named_parameters()), **dict(explainer.named_buffers())}
        self.fixed = {name: value.detach().contiguous() for name, value in every.items() if name not in adapted}
        own = [{**dict(start.named_parameters()), **dict(start.named_buffers())} for start in starts or []]
        self.parameters = {
            name: (
                torch.stack([start[name].detach().contiguous() for start in own])
                if own
                else value.detach().contiguous().expand(count, *value.shape).clone()
            ).requires_grad_()
            for name, value in every.items()
            if name in adapted
        }
        # Random features differ from one start to the next, and are not learned.
        differ = [name for name in self.fixed if any(not torch.equal(start[name], self.fixed[name]) for start in own)]
        self.constants = {name: torch.stack([start[name].detach() for start in own]) for name in differ}
        self.own_trunks = any(name.startswith("trunk") for name in (*self.parameters, *differ))

    def scores(self, targets: Tensor, areas: Tensor | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """What the explainer decodes for classes `[B]` (and areas, if it takes them), each image by its own copy."""
        network: nn.Module = _Decode(self.explainer, {} if size is None else {"size": size})
        fixed = {f"explainer.{name}": value for name, value in self.fixed.items()}

        def one(parameters: dict[str, Tensor], source: Features | Tensor, *asked: Tensor) -> Tensor:
            own = {f"explainer.{name}": value for name, value in parameters.items()}
            single = tree_map(lambda x: x[None], source)
            return functional_call(network, {**fixed, **own}, (single, *(x[None] for x in asked))).squeeze(0)

        source = self.images if self.own_trunks else self.found
        asked = (targets,) if areas is None else (targets, areas)
        stacked = {**self.parameters, **self.constants}
        if not self.batched:
            rows = zip(*(value.unbind() for value in stacked.values()), strict=True)
            copies = (dict(zip(stacked, row, strict=True)) for row in rows)
            return torch.stack(
                [one(own, *tree_map(itemgetter(row), (source, *asked))) for row, own in enumerate(copies)]
            )
        # Fused attention has no batching rule, and would be looped over the images.
        with sdpa_kernel(SDPBackend.MATH), _ConvolutionAsProduct():
            return vmap(one)(stacked, source, *asked)

    def finish(self) -> None:
        """Nothing is learned any more: let go of the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None
            parameter.requires_grad_(False)


def _apart(explainer: MaskNetwork) -> MaskNetwork:
    """The same network in modules of its own, which nobody else runs while a pass puts other values into them.

    The tensors, the classifier and what users hooked are shared.
    """
    shared: list[Any] = [explainer.classifier, *explainer.parameters(), *explainer.buffers()]
    for module in explainer.modules():
        shared += [value for key, value in vars(module).items() if key.endswith("_hooks") or isinstance(value, Tensor)]
    return copy.deepcopy(explainer, {id(each): each for each in shared})


class _ConvolutionAsProduct(TorchFunctionMode):
    """Computes dense 2-D convolutions as matrix products of the shifted input.

    With weights of its own for each image, a convolution becomes one with as many groups as images, which is several
    times slower than these batched products (measured by `python -m ltx.bench finetune`).
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.conv2d or function is torch.conv2d:
            return self._convolve(function, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _convolve(
        function: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        rows, columns = weight.shape[-2:]
        if isinstance(padding, str) or {*_pair(dilation), groups} != {1}:
            return function(x, weight, bias, stride, padding, dilation, groups).contiguous()
        (down, across), (step, skip) = _pair(padding), _pair(stride)
        x = torch.nn.functional.pad(x, (across, across, down, down))
        height, width = (x.shape[-2] - rows) // step + 1, (x.shape[-1] - columns) // skip + 1
        shifted = [
            x[..., i : i + step * (height - 1) + 1 : step, j : j + skip * (width - 1) + 1 : skip]
            for i in range(rows)
            for j in range(columns)
        ]
        product = weight.flatten(1) @ torch.stack(shifted, 2).flatten(1, 2).flatten(2)
        y = product.unflatten(2, (height, width))
        return y if bias is None else y + bias[:, None, None]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class _Decode(nn.Module):
    """Gives `functional_call` a forward that decodes."""

    def __init__(self, explainer: MaskNetwork, options: dict[str, Any]) -> None:
        super().__init__()
        self.explainer = explainer
        self.options = options

    def forward(self, source: Features | Tensor, targets: Tensor, areas: Tensor | None = None) -> Tensor:
        found = self.explainer.encode(source) if isinstance(source, Tensor) else source
        return self.explainer.decode(found, targets, areas, **self.options)
