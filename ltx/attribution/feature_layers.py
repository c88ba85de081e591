"""Layers of a model that return feature maps, in any layout, with their activations and gradients."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.attribution.attention import attention_chain, has_attention
from ltx.attribution.model_trace import ModelTrace, ModuleCall, model_trace
from ltx.classifier.classifier import Classifier
from ltx.classifier.own_modules import FunctionModule
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
        position: index of the feature map in the output if that is a tuple.
    """

    name: str
    module: nn.Module
    layout: Layout
    grid: tuple[int, int]
    prefix: int
    channels: int
    position: int | None = None

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


def feature_layers(classifier: Classifier, count: int = 1) -> list[FeatureLayer]:
    """The last `count` feature layers, shallow to deep.

    In models with feature maps, the deepest layer is the one that the head pools, and each shallower layer is the last
    one before it with a finer grid. In plain token models (ViT, Mixer) they are the blocks before the last: if the head
    reads only the class token, the output of the last block has no gradient at the patch tokens. With self-attention
    over all tokens, the deepest layer is the normalisation at the start of the last block, which gives better maps than
    the block before it (`docs/methods.md`).

    Raises:
        InputError: the model has fewer feature maps with more than one position, or none after the first quarter of
            its layers.
    """
    trace, cached = model_trace(classifier), _selections.get(classifier)
    if cached is None or cached[0] is not trace:
        cached = _selections[classifier] = trace, _all_layers(classifier)
    selected = cached[1]
    if len(selected) < count and isinstance(classifier.model, FunctionModule):
        raise InputError(
            f"{classifier.name} is a function or a scripted module, whose layers cannot be hooked; give the nn.Module "
            "itself"
        )
    if len(selected) < count:
        size = "x".join(map(str, classifier.input_size))
        raise InputError(
            f"{classifier.name} at {size} has {len(selected)} feature maps of more than one position, {count} are "
            "needed; a larger classifier.input_size or layers=[…] may help; methods without feature maps, for instance "
            "integrated_gradients and rise, work on any model"
        )
    return selected[:count][::-1]


_selections: weakref.WeakKeyDictionary[Classifier, tuple[ModelTrace, list[FeatureLayer]]] = weakref.WeakKeyDictionary()


def _all_layers(classifier: Classifier) -> list[FeatureLayer]:
    """All feature layers, deep to shallow."""
    names = {module: name for name, module in classifier.model.named_modules()}
    calls, grid = model_trace(classifier).calls, _token_grid(classifier)
    auxiliary = getattr(classifier.model, "aux_head", None)  # VOLO: class logits of every patch
    maps = [
        (call, layer)
        for call in calls
        if call.module is not auxiliary
        and (layer := _layer(classifier, call, names, grid))
        and _outermost(classifier, call, grid)
    ]
    if not maps:
        return []
    deepest = maps[-1][1]
    blocks, reads_patches = _blocks(classifier)
    if deepest.layout == "tokens" and blocks:
        inner = [layer for _, layer in reversed(maps) if layer.module in blocks[:-1]]
        if has_attention(classifier) and (call := attention_chain(classifier).last_input):
            first_layer = _layer(classifier, call, names, grid)
            inner = inner if first_layer is None else [first_layer, *inner]
        return inner or ([deepest] if reads_patches else [])
    selected: list[FeatureLayer] = []
    if 4 * (calls.index(maps[-1][0]) + 1) >= len(calls):  # otherwise it is only the embedding
        for call, layer in reversed(maps):
            finer = not selected or math.prod(layer.grid) > math.prod(selected[-1].grid)
            if finer and not (selected and _begins_downsampling(classifier, call, grid)):
                selected.append(layer)
    return selected


def _blocks(classifier: Classifier) -> tuple[list[nn.Module], bool]:
    """Blocks of a token model, first to last, and whether its head reads patch tokens."""
    if has_attention(classifier):
        chain = attention_chain(classifier)
        return [call.module for call in chain.blocks], chain.reads_patches
    blocks = getattr(classifier.model, "blocks", None)
    listed = list(blocks) if isinstance(blocks, (nn.Sequential, nn.ModuleList)) else []
    return listed, getattr(classifier.model, "global_pool", "") != "token"


def named_layers(classifier: Classifier, names: list[str]) -> list[FeatureLayer]:
    """The layers of these names (as in `named_modules()`), in the given order (shallow to deep).

    Raises:
        InputError: no such module, or its output is not a feature map.
    """
    modules = dict(classifier.model.named_modules())
    every, grid = model_trace(classifier).calls, _token_grid(classifier)
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

    def hold(_: nn.Module, __: Any, output: Any) -> Any:
        activation = output if layer.position is None else output[layer.position]
        # Copies: layers after this one may overwrite their input, or what this layer returned.
        outputs.append(activation.detach().clone().requires_grad_())
        copy = outputs[-1].clone()
        if layer.position is None:
            return copy
        return tuple(copy if index == layer.position else each for index, each in enumerate(output))

    handle = layer.module.register_forward_hook(hold)
    try:
        with torch.enable_grad(), _on_tokens_read(classifier, layer):
            logits = classifier(images)
            classes = logits.argmax(1) if targets is None else targets
            (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), outputs[-1:])
    finally:
        handle.remove()
    return layer.as_map(outputs[-1].detach()).float(), layer.as_map(gradient).float()


@contextmanager
def _on_tokens_read(classifier: Classifier, layer: FeatureLayer) -> Iterator[None]:
    """Context in which the last attention and the layers after it run on fewer tokens, if `layer` is before them."""
    with ExitStack() as stack:
        if layer.layout == "tokens" and has_attention(classifier):
            chain = attention_chain(classifier)
            calls = [*chain.blocks[:-1], *([chain.last_input] if chain.last_input else [])]
            if layer.module in [call.module for call in calls]:
                stack.enter_context(chain.on_tokens_read())
                stack.enter_context(chain.last_attention_on_tokens_read())
        yield


def upsample(maps: Tensor, images: Tensor, mode: str = "bilinear") -> Tensor:
    """Upsample maps `[B, 1, h, w]` to the size of the images, `[B, 1, H, W]`."""
    return F.interpolate(maps, size=images.shape[-2:], mode=mode, align_corners=False)


def rescaled(maps: Tensor) -> Tensor:
    """Min-max normalise each map `[B, 1, H, W]` to [0, 1], float32; a constant map becomes 0."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return ((maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)).float()


def _layer(
    classifier: Classifier, call: ModuleCall, names: dict[nn.Module, str], tokens: tuple[int, int]
) -> FeatureLayer | None:
    shape = call.shape
    if shape is None or len(shape) not in (3, 4) or shape[0] != 1:
        return None
    name = names[call.module]
    if len(shape) == 4:
        if _in_attention(call):
            return None
        usual: Layout = "NHWC" if getattr(classifier.model, "output_fmt", "NCHW") == "NHWC" else "NCHW"
        other: Layout = "NCHW" if usual == "NHWC" else "NHWC"  # some layers of VOLO
        for layout in (usual, other):
            grid, channels = (shape[2:], shape[1]) if layout == "NCHW" else (shape[1:3], shape[3])
            # Exclude maps of one row or column, and attention matrices, heads and windows, whose strides differ.
            strides = [side / cells for side, cells in zip(classifier.input_size, grid, strict=True)]
            if min(grid) >= 2 and 2 * min(strides) >= max(strides):
                return FeatureLayer(name, call.module, layout, (grid[0], grid[1]), 0, channels, call.position)
        return None
    prefix = shape[1] - tokens[0] * tokens[1]
    if prefix not in (0, classifier.num_prefix_tokens):
        tokens, prefix = _grid_of(shape[1], classifier), 0
    if min(tokens) < 2:
        return None
    return FeatureLayer(name, call.module, "tokens", tokens, prefix, shape[2], call.position)


def _grid_of(count: int, classifier: Classifier) -> tuple[int, int]:
    """The grid of that many tokens in a hierarchical model without prefix tokens; (0, 0) if there is none."""
    height, width = classifier.input_size
    stride = math.isqrt(height * width // count)
    if classifier.num_prefix_tokens or stride == 0 or height % stride or width % stride:
        return 0, 0
    grid = height // stride, width // stride
    return grid if math.prod(grid) == count else (0, 0)


def _in_attention(call: ModuleCall) -> bool:
    """Whether the call is inside an attention module, whose tensors have the dimensions of a feature map."""
    modules = [caller.module for caller in call.callers()[1:]]
    return any(hasattr(module, "attn_drop") or hasattr(module, "k_norm") for module in modules)


_grids: weakref.WeakKeyDictionary[Classifier, tuple[ModelTrace, tuple[int, int]]] = weakref.WeakKeyDictionary()


def _token_grid(classifier: Classifier) -> tuple[int, int]:
    """The grid of the model's patch tokens; (0, 0), which fits no number of tokens, if the model has none."""
    trace, cached = model_trace(classifier), _grids.get(classifier)
    if cached is None or cached[0] is not trace:
        cached = _grids[classifier] = trace, _grid(classifier)
    return cached[1]


def _grid(classifier: Classifier) -> tuple[int, int]:
    grid = getattr(getattr(classifier.model, "patch_embed", None), "grid_size", None)
    try:
        height, width = classifier.grid if grid is None else grid
    except (InputError, TypeError, ValueError):  # a plain module, or several sets of tokens
        return 0, 0
    return int(height), int(width)


def _outermost(classifier: Classifier, call: ModuleCall, tokens: tuple[int, int]) -> bool:
    """Whether no enclosing call returns a feature map, apart from plain `nn.Sequential`s."""
    return not any(
        not isinstance(caller.module, nn.Sequential)
        and _layer(classifier, caller, {caller.module: ""}, tokens) is not None
        for caller in call.callers()[1:]
    )


def _begins_downsampling(classifier: Classifier, call: ModuleCall, tokens: tuple[int, int]) -> bool:
    """Whether the call is the normalisation before the convolution of an `nn.Sequential` that downsamples (ConvNeXt).

    The feature map is then the output of the stage before it.
    """
    parent = call.parent
    if parent is None or not isinstance(parent.module, nn.Sequential) or not isinstance(call.module, nn.LayerNorm):
        return False
    after = _layer(classifier, parent, {parent.module: ""}, tokens)
    before = _layer(classifier, call, {call.module: ""}, tokens)
    return call.module is parent.module[0] and after is not None and before is not None and after.grid != before.grid
