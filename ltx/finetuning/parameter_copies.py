"""A mask network with separate parameters for each image."""

from __future__ import annotations

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
from ltx.explainers.separate_modules import separate_modules
from ltx.runtime.private_api import tree_map


class Copies:
    """Copies of an explainer's adapted parameters, one per image.

    A GPU runs all copies, stacked along a first axis, in one batched pass. A CPU runs them one after the other: a
    single image keeps it busy, and convolutions with one set of weights take less than half the time of the batched
    products.

    Args:
        explainer: the network that is copied; it does not change.
        scope: adapted parameters, see `MaskNetwork.scope`.
        count: number of images.
        features: the images' features, used if all copies share the explainer's trunk.
        images: `[B, 3, H, W]`, used if they do not.
        starts: networks of the same architecture whose parameters the copies start from, one per image; None = the
            explainer's.
        batched: whether all copies run in one pass; None = except on a CPU.

    Attributes:
        parameters: adapted parameters by name: one set, stacked to `[B, …]`, if `batched`, otherwise one per image.
        fixed: the explainer's other parameters and buffers.
        constants: buffers that differ between `starts` and are not adapted, `[B, …]`.
    """

    def __init__(
        self,
        explainer: MaskNetwork,
        scope: str,
        count: int,
        features: Features,
        images: Tensor,
        starts: Sequence[MaskNetwork] | None = None,
        batched: bool | None = None,
    ) -> None:
        # Concurrent calls must not swap each other's parameters.
        self.explainer = separate_modules(explainer)
        self.batched = images.device.type != "cpu" if batched is None else batched
        # Under vmap, torch 2.15 returns wrong gradients of normalisation layers for channels-last tensors.
        self.features = tree_map(Tensor.contiguous, features)
        self.images = images.contiguous()
        adapted = set(explainer.scope(scope))
        every = {**dict(explainer.named_parameters()), **dict(explainer.named_buffers())}
        self.fixed = {name: value.detach().contiguous() for name, value in every.items() if name not in adapted}
        states = [{**dict(start.named_parameters()), **dict(start.named_buffers())} for start in starts or []]
        stacked = {
            name: (
                torch.stack([state[name].detach().contiguous() for state in states])
                if states
                else value.detach().contiguous().expand(count, *value.shape).clone()
            )
            for name, value in every.items()
            if name in adapted
        }
        # Separate leaves: gradients of views of a stack would be stacked, which copies them in every step.
        self.parameters = [stacked] if self.batched else _rows(stacked, count)
        for parameter in self.leaves():
            parameter.requires_grad_()
        # The random Fourier features of an INR differ between networks but are not adapted.
        differ = [n for n, fixed in self.fixed.items() if any(not torch.equal(state[n], fixed) for state in states)]
        self.constants = {name: torch.stack([state[name].detach() for state in states]) for name in differ}
        self.own_trunks = any(name.startswith("trunk") for name in (*adapted, *differ))

    def leaves(self) -> list[Tensor]:
        """The tensors that an optimiser adapts."""
        return [parameter for named in self.parameters for parameter in named.values()]

    def scores(self, targets: Tensor, areas: Tensor | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Decode scores `[B, A, h, w]`, each image with its own copy of the parameters.

        Args:
            targets: target classes, `[B]`.
            areas: requested areas, `[B, A]`, for networks that take areas.
            size: height and width of the scores, for networks that take areas.
        """
        network: nn.Module = _Decode(self.explainer, {} if size is None else {"size": size})
        fixed = {f"explainer.{name}": value for name, value in self.fixed.items()}

        def one(parameters: dict[str, Tensor], source: Features | Tensor, *conditions: Tensor) -> Tensor:
            adapted = {f"explainer.{name}": value for name, value in parameters.items()}
            single = tree_map(lambda x: x[None], source)
            inputs = (single, *(condition[None] for condition in conditions))
            scores: Tensor = functional_call(network, {**fixed, **adapted}, inputs)
            return scores.squeeze(0)

        source = self.images if self.own_trunks else self.features
        conditions = (targets,) if areas is None else (targets, areas)
        if not self.batched:
            constants = _rows(self.constants, len(self.parameters))
            copies = ({**named, **constant} for named, constant in zip(self.parameters, constants, strict=True))
            return torch.stack(
                [one(copy, *tree_map(itemgetter(row), (source, *conditions))) for row, copy in enumerate(copies)]
            )
        # Fused attention has no batching rule: vmap would loop over the images.
        with sdpa_kernel(SDPBackend.MATH), _ConvolutionAsProduct():
            batched: Tensor = vmap(one)({**self.parameters[0], **self.constants}, source, *conditions)
            return batched

    def finish(self) -> None:
        """Release the gradients after the last step."""
        for parameter in self.leaves():
            parameter.grad = None
            parameter.requires_grad_(False)


def _rows(stacked: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """The tensors `[…]` of each of `count` images, from stacked ones `[B, …]`; they share their memory."""
    return [{name: value[row] for name, value in stacked.items()} for row in range(count)]


class _ConvolutionAsProduct(TorchFunctionMode):
    """Computes dense 2-D convolutions as matrix products of the shifted input.

    Under vmap, a convolution with separate weights per image becomes a grouped one, which is several times slower than
    these batched products (see `ltx bench finetune`).
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
            convolved: Tensor = function(x, weight, bias, stride, padding, dilation, groups)
            return convolved.contiguous()
        (down, across), (step, skip) = _pair(padding), _pair(stride)
        x = torch.nn.functional.pad(x, (across, across, down, down))
        height, width = (x.shape[-2] - rows) // step + 1, (x.shape[-1] - columns) // skip + 1
        shifted = [
            x[..., i : i + step * (height - 1) + 1 : step, j : j + skip * (width - 1) + 1 : skip]
            for i in range(rows)
            for j in range(columns)
        ]
        product = weight.flatten(1) @ torch.stack(shifted, 2).flatten(1, 2).flatten(2)
        y = torch.unflatten(product, 2, (height, width))
        return y if bias is None else y + bias[:, None, None]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class _Decode(nn.Module):
    """Adapts `MaskNetwork.decode` to `functional_call`, which calls `forward`."""

    def __init__(self, explainer: MaskNetwork, options: dict[str, Any]) -> None:
        super().__init__()
        self.explainer = explainer
        self.options = options

    def forward(self, source: Features | Tensor, targets: Tensor, areas: Tensor | None = None) -> Tensor:
        features = self.explainer.encode(source) if isinstance(source, Tensor) else source
        return self.explainer.decode(features, targets, areas, **self.options)
