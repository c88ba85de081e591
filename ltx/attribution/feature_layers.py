"""Layers of a model that return feature maps, in any layout, with their activations and gradients."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.attribution.partial_forward import not_in_place
from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError, suggest

Layout = Literal["NCHW", "NHWC", "tokens"]


@dataclass(frozen=True)
class FeatureLayer:
    """A module whose output is a feature map.

    Attributes:
        name: name of the module in `named_modules()`.
        module: the module.
        layout: layout of its output: `NCHW`, `NHWC`, or `tokens` = `[B, prefix + h·w, C]`.
        grid: `(h, w)` at the classifier's input size.
        prefix: number of tokens before the patch tokens.
        channels: number of channels `C`.
    """

    name: str
    module: nn.Module
    layout: Layout
    grid: tuple[int, int]
    prefix: int
    channels: int

    @property
    def channel_dim(self) -> int:
        """Dimension of the channels in the layer's output."""
        return 1 if self.layout == "NCHW" else -1

    def as_map(self, output: Tensor) -> Tensor:
        """The layer's output, or its gradient, as `[B, C, h, w]` without prefix tokens."""
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        patches: Tensor = output[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)
        return patches

    def channel_minimum(self, output: Tensor) -> Tensor:
        """Minimum of each channel over positions, broadcastable to `output`."""
        if self.layout == "tokens":
            return output[:, self.prefix :].amin(1, keepdim=True)
        return output.amin((2, 3) if self.layout == "NCHW" else (1, 2), keepdim=True)


@dataclass(eq=False)
class _Call:
    module: nn.Module
    parent: _Call | None
    shape: tuple[int, ...] | None = None


def feature_layers(classifier: Classifier, count: int = 1) -> list[FeatureLayer]:
    """The last `count` feature layers, shallow to deep.

    In models with feature maps, the deepest layer is the one that the head pools, and each shallower layer is the last
    one before it with a finer grid. In plain token models (ViT, Mixer) they are the blocks before the last: if the head
    reads only the class token, the output of the last block has no gradient at the patch tokens.

    Raises:
        InputError: the model has fewer feature maps with more than one position, or none after the first quarter of
            its layers.
    """
    calls, grid = _trace(classifier)
    names = {module: name for name, module in classifier.model.named_modules()}
    blocks = getattr(classifier.model, "blocks", None)
    auxiliary = getattr(classifier.model, "aux_head", None)  # VOLO: class logits of every patch
    selected: list[FeatureLayer] = []  # deep to shallow
    maps = [
        (call, layer)
        for call in calls
        if call.module is not auxiliary
        and (layer := _layer(classifier, call, names, grid))
        and _outermost(classifier, call, grid)
    ]
    if maps and maps[-1][1].layout == "tokens" and isinstance(blocks, (nn.Sequential, nn.ModuleList)):
        inner = [layer for _, layer in reversed(maps) if layer.module in list(blocks)[:-1]]
        after_all = [] if getattr(classifier.model, "global_pool", "") == "token" else [maps[-1][1]]
        selected = inner or after_all
    elif maps and 4 * (calls.index(maps[-1][0]) + 1) >= len(calls):  # otherwise it is only the embedding
        for _, layer in reversed(maps):
            if not selected or math.prod(layer.grid) > math.prod(selected[-1].grid):
                selected.append(layer)
    if len(selected) < count:
        size = "x".join(map(str, classifier.input_size))
        raise InputError(
            f"{classifier.name} at {size} has {len(selected)} feature maps of more than one position, {count} are "
            "needed; give a larger classifier.input_size, or layers=[…]"
        )
    return selected[:count][::-1]


def named_layers(classifier: Classifier, names: list[str]) -> list[FeatureLayer]:
    """The layers of these names (as in `named_modules()`), in the given order (shallow to deep).

    Raises:
        InputError: no such module, or its output is not a feature map.
    """
    modules = dict(classifier.model.named_modules())
    every, grid = _trace(classifier)
    calls = {call.module: call for call in every}
    layers = []
    for name in names:
        if name not in modules:
            raise InputError(f"layer={name!r} is not a module of {classifier.name}{suggest(name, modules)}")
        call = calls.get(modules[name])
        layer = _layer(classifier, call, {modules[name]: name}, grid) if call else None
        if layer is None:
            shape = call.shape if call else "nothing"
            raise InputError(f"layer={name!r} of {classifier.name} returns {shape}, which is not a feature map")
        layers.append(layer)
    return layers


def select_layers(
    classifier: Classifier, layers: Sequence[str | int] | str | int | None, count: int
) -> list[FeatureLayer]:
    """The user's `layers`, or the last `count` feature layers of the model.

    Raises:
        InputError: the number of layers is not `count`; see also `named_layers` and `feature_layers`.
    """
    if layers is None:
        return feature_layers(classifier, count)
    names = [str(layer) for layer in ([layers] if isinstance(layers, (str, int)) else layers)]
    if len(names) != count:
        raise InputError(f"layers={names} are {len(names)}; this method takes {count}, shallow to deep")
    return named_layers(classifier, names)


def activation_and_gradient(
    classifier: Classifier, layer: FeatureLayer, images: Tensor, targets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Activations of a layer and the gradient of the class logit with respect to them, `[B, C, h, w]` float32 each.

    Takes one forward pass and a backward pass down to the layer.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        targets: class indices `[B]`; None = the predicted classes.
    """
    outputs: list[Tensor] = []

    def hold(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()  # a block may add its shortcut in place

    handle = layer.module.register_forward_hook(hold)
    try:
        with torch.enable_grad(), not_in_place(classifier.model):
            logits = classifier(images)
            classes = logits.argmax(1) if targets is None else targets
            (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), outputs[-1:])
    finally:
        handle.remove()
    return layer.as_map(outputs[-1].detach()).float(), layer.as_map(gradient).float()


def upsample(maps: Tensor, images: Tensor, mode: str = "bilinear") -> Tensor:
    """Upsample maps `[B, 1, h, w]` to the size of the images, `[B, 1, H, W]`."""
    return F.interpolate(maps, size=images.shape[-2:], mode=mode, align_corners=False)


def rescaled(maps: Tensor) -> Tensor:
    """Min-max normalise each map `[B, 1, H, W]` to [0, 1], float32; a constant map becomes 0."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return ((maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)).float()


_Traced = tuple[list[_Call], tuple[int, int]]
_traces: weakref.WeakKeyDictionary[Classifier, tuple[tuple[Any, ...], _Traced]] = weakref.WeakKeyDictionary()


def _trace(classifier: Classifier) -> _Traced:
    """Every module call of one forward pass, in the order in which the calls finish, and the token grid.

    The trace is cached until the model's modules or input size change.
    """
    model = (classifier.input_size, *classifier.model.modules())
    cached = _traces.get(classifier)
    if cached is None or cached[0] != model:
        with classifier.unfolded():  # methods hook the model's own modules, which a folded copy does not run
            cached = _traces[classifier] = model, (_calls(classifier), _token_grid(classifier))
    return cached[1]


def _calls(classifier: Classifier) -> list[_Call]:
    finished: list[_Call] = []
    stack: list[_Call] = []

    def enter(module: nn.Module, _: Any) -> None:
        stack.append(_Call(module, stack[-1] if stack else None))

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        call = stack.pop()
        call.shape = tuple(output.shape) if isinstance(output, Tensor) else None
        finished.append(call)

    handles = []
    try:
        for module in classifier.model.modules():
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        with torch.no_grad():
            classifier(torch.zeros(1, 3, *classifier.input_size, device=classifier.device))
    finally:
        for handle in handles:
            handle.remove()
    return finished


def _layer(
    classifier: Classifier, call: _Call, names: dict[nn.Module, str], tokens: tuple[int, int]
) -> FeatureLayer | None:
    shape = call.shape
    if shape is None or len(shape) not in (3, 4):
        return None
    if len(shape) == 4:
        if shape[0] != 1 or _in_attention(call):
            return None
        usual: Layout = "NHWC" if getattr(classifier.model, "output_fmt", "NCHW") == "NHWC" else "NCHW"
        other: Layout = "NCHW" if usual == "NHWC" else "NHWC"  # some layers of VOLO
        for layout in (usual, other):
            grid, channels = (shape[2:], shape[1]) if layout == "NCHW" else (shape[1:3], shape[3])
            # Exclude maps of one row or column, and attention matrices, heads and windows, whose strides differ.
            strides = [side / cells for side, cells in zip(classifier.input_size, grid, strict=True)]
            if min(grid) >= 2 and 2 * min(strides) >= max(strides):
                return FeatureLayer(names[call.module], call.module, layout, (grid[0], grid[1]), 0, channels)
        return None
    prefix = shape[1] - tokens[0] * tokens[1]
    if shape[0] != 1 or prefix not in (0, classifier.num_prefix_tokens) or min(tokens) < 2:
        return None
    return FeatureLayer(names[call.module], call.module, "tokens", tokens, prefix, shape[2])


def _in_attention(call: _Call) -> bool:
    """Whether the call is inside an attention module, whose tensors have the dimensions of a feature map."""
    above = call.parent
    while above is not None and not (hasattr(above.module, "attn_drop") or hasattr(above.module, "k_norm")):
        above = above.parent
    return above is not None


def _token_grid(classifier: Classifier) -> tuple[int, int]:
    """The grid of the model's patch tokens; (0, 0), which fits no number of tokens, if the model has none."""
    grid = getattr(getattr(classifier.model, "patch_embed", None), "grid_size", None)
    try:
        height, width = classifier.grid if grid is None else grid
    except (InputError, TypeError, ValueError):  # a plain module, or several sets of tokens
        return 0, 0
    return int(height), int(width)


def _outermost(classifier: Classifier, call: _Call, tokens: tuple[int, int]) -> bool:
    """Whether no enclosing call returns a feature map, apart from plain `nn.Sequential`s."""
    above = call.parent
    while above is not None:
        if (
            not isinstance(above.module, nn.Sequential)
            and _layer(classifier, above, {above.module: ""}, tokens) is not None
        ):
            return False
        above = above.parent
    return True
