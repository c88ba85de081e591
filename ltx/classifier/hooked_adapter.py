"""Adapter for any module: forward hooks read its feature maps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ltx.classifier.class_token import TokenWriting
from ltx.classifier.feature_maps import average_rows, in_eval_mode
from ltx.classifier.interface import Features
from ltx.classifier.model_outputs import find_logits
from ltx.classifier.own_modules import FunctionModule
from ltx.classifier.tracing import Call, FeaturePoint, LayoutFinder, ModelLayout, find_head, first_tensor, record
from ltx.runtime.errors import InputError, suggest

Forward = Callable[[nn.Module, Tensor], Any]
"""`(module, inputs [B, C, H, W]) -> logits [B, K]`, or an output that contains them."""

EMBEDDINGS = ("embed", "cls_token", "class_token", "position", "conv_proj")
"""Parts of the parameter names of a transformer's input layers, which stay frozen in a trainable trunk."""


@dataclass(frozen=True)
class LayerOptions:
    """Where the parts of a model are; what is None is inferred from one forward pass.

    Attributes:
        features: names of the modules whose outputs are the stages, shallow to deep.
        head: name of the linear classification layer.
        grid: height and width of the patch tokens.
        prefix_tokens: number of tokens before the patch tokens.
        single_logit: whether an output `[B]` is one logit per image.
    """

    features: tuple[str, ...] | None = None
    head: str | None = None
    grid: tuple[int, int] | None = None
    prefix_tokens: int | None = None
    single_logit: bool = False


class HookedModel:
    """`ltx.classifier.interface.ImageModel` of any module.

    Args:
        module: the model.
        channels: number of input channels.
        input_size: height and width of the images that the layout is inferred with.
        forward: how the module is called; None = `module(inputs)`.
        options: the parts of the model that are not inferred.

    Raises:
        InputError: `options` names a module that does not exist.
    """

    def __init__(
        self,
        module: nn.Module,
        channels: int,
        input_size: tuple[int, int],
        forward: Forward | None = None,
        options: LayerOptions | None = None,
    ) -> None:
        self.module, self.channels, self.input_size = module, channels, input_size
        self.forward, self.options = forward, options or LayerOptions()
        known = dict(module.named_modules())
        for key, names in (("features", self.options.features or ()), ("head_layer", (self.options.head,))):
            for name in names:
                if name is not None and name not in known:
                    raise InputError(
                        f"classifier.{key}: {name!r} is not a module of {type(module).__name__}{suggest(name, known)}"
                    )
        self._layout: ModelLayout | None = None
        self._heads: list[str] = []
        self._read = 0
        self._refusal: str | None = None

    # -- the forward pass ------------------------------------------------------------------------------------------

    def logits(self, inputs: Tensor) -> Tensor:
        output = self.module(inputs) if self.forward is None else self.forward(self.module, inputs)
        return find_logits(output, type(self.module).__name__, self.options.single_logit)

    def logits_and_features(self, inputs: Tensor, stages: list[int] | None = None) -> tuple[Tensor, Features]:
        layout = self.layout
        points = [layout.stages[index] for index in (range(len(layout.stages)) if stages is None else stages)]
        writing = TokenWriting(self.read_tokens) if self.read_tokens and layout.blocks else None
        last = layout.stages[-1].name
        with hooked(self.module, [*points, layout.final]) as outputs, _writing(self.module, last, writing):
            logits = self.logits(inputs)
        maps = [point.as_map(outputs[point.name, point.number]) for point in (*points, layout.final)]
        written = None if writing is None else writing.written()
        if written is None:
            return logits, Features(maps[:-1], maps[-1])
        attended, values = (layout.stages[-1].as_map(tokens) for tokens in written)
        return logits, Features(maps[:-1], attended, (values,))

    # -- the parts of the model ------------------------------------------------------------------------------------

    def feature_refusal(self) -> str:
        if self._refusal is None:
            self._infer()
        return self._refusal or ""

    @property
    def layout(self) -> ModelLayout:
        """Where the feature maps are.

        Raises:
            InputError: there are none.
        """
        if self.feature_refusal() or self._layout is None:
            raise InputError(self.feature_refusal())
        return self._layout

    @property
    def prefix_tokens(self) -> int:
        return 0 if self.feature_refusal() else self.layout.prefix

    @property
    def read_tokens(self) -> int:
        return 0 if self.feature_refusal() else self._read

    @property
    def final_norm(self) -> nn.Module | None:
        norm = None if self.feature_refusal() else self.layout.norm
        return None if norm is None else self.module.get_submodule(norm)

    def grid(self, input_size: tuple[int, int]) -> tuple[int, int]:
        if input_size != self.input_size:
            return replace_size(self, input_size).grid(input_size)
        return self.layout.final.grid

    def feature_shapes(self, input_size: tuple[int, int], stages: list[int] | None = None) -> list[torch.Size]:
        model = self if input_size == self.input_size else replace_size(self, input_size)
        parameter = next(self.module.parameters(), torch.zeros(()))
        zeros = torch.zeros(1, self.channels, *input_size, device=parameter.device)
        with torch.no_grad():
            _, maps = model.logits_and_features(zeros, stages)
        return [tensor.shape[1:] for tensor in (*maps.stages, maps.final)]

    def head_rows(self) -> Tensor | None:
        self.feature_refusal()
        return average_rows([self.module.get_submodule(name) for name in self._heads])

    def trunk(self) -> nn.Module:
        return HookedTrunk(self)

    def rebind(self, module: nn.Module) -> HookedModel:
        self.feature_refusal()  # infer once, not for every copy
        other = copy.copy(self)
        other.module = module
        return other

    # -- inference -------------------------------------------------------------------------------------------------

    def _infer(self) -> None:
        """Record one forward pass of noise and find the layout, the head and the tokens that the head reads."""
        self._refusal = ""
        results: list[Tensor] = []
        parameter = next(self.module.parameters(), torch.zeros(()))
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, self.channels, *self.input_size, generator=generator).to(parameter)
        in_eval_mode(self.module)
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            calls = record(self.module, lambda: results.append(self.logits(image)))
        self._heads = [self.options.head] if self.options.head is not None else find_head(calls, results[0])
        finder = LayoutFinder(calls, self.input_size, self.channels, self.options.grid, self.options.prefix_tokens)
        try:
            layout = finder.find() if self.options.features is None else self._selected(finder, calls)
        except InputError as error:
            self._refusal = str(error)
            return
        if layout is None and isinstance(self.module, FunctionModule):
            self._refusal = (
                "the layers of a function or a scripted module cannot be hooked; give the nn.Module itself, or choose "
                "another trunk with explainer.trunk=<timm model name>"
            )
            return
        if layout is None:
            self._refusal = (
                f"{type(self.module).__name__} has no feature maps that hooks can read at "
                f"{'x'.join(map(str, self.input_size))}; name them with features=[…] (module names), or choose "
                "another trunk with explainer.trunk=<timm model name>"
            )
            return
        self._layout = layout
        if layout.prefix:
            self._read = self._tokens_read(layout, image)

    def _selected(self, finder: LayoutFinder, calls: list[Call]) -> ModelLayout:
        """The layout with the stages that the user names."""
        inferred = finder.find()
        points = []
        for name in self.options.features or ():
            call = next((call for call in reversed(calls) if call.name == name), None)
            point = None if call is None or call.output is None else finder.point(name, call.number, call.output)
            if point is None:
                shape = "nothing" if call is None or call.output is None else tuple(call.output.shape)
                raise InputError(
                    f"classifier.features: {name!r} returns {shape}, which is not a feature map; "
                    "for tokens, give grid=(height, width) and prefix_tokens"
                )
            points.append(point)
        if not points:
            raise InputError("classifier.features is an empty list; give module names, or leave it out")
        last = points[-1]
        final = inferred.final if inferred is not None and inferred.final.grid == last.grid else last
        norm = inferred.norm if inferred is not None and inferred.final == final else None
        blocks = len({(point.layout, point.grid) for point in points}) == 1 and last.layout == "tokens"
        return ModelLayout(tuple(points), final, last.prefix, norm, blocks)

    def _tokens_read(self, layout: ModelLayout, image: Tensor) -> int:
        """Number of prefix tokens that the head reads: 0 if the logits have a gradient at the final patch tokens."""
        generator = torch.Generator().manual_seed(0)

        def leaf(output: Tensor) -> Tensor:
            return output.detach().requires_grad_()

        with torch.enable_grad(), hooked(self.module, [layout.final], leaf) as outputs:
            logits = self.logits(image)
            weights = torch.randn(logits.shape, generator=generator).to(logits)
            tokens = outputs[layout.final.name, layout.final.number]
            (gradient,) = torch.autograd.grad((logits * weights).sum(), [tokens], allow_unused=True)
        if gradient is None:
            return 0
        reached = gradient[0].abs().amax(1) > 0
        if not reached.any():  # a head of zeros
            return 1
        if reached[layout.prefix :].any():
            return 0
        return int(reached[: layout.prefix].nonzero().max()) + 1


def replace_size(model: HookedModel, input_size: tuple[int, int]) -> HookedModel:
    """The adapter of the same module for another input size."""
    options = replace(model.options)
    return HookedModel(model.module, model.channels, input_size, model.forward, options)


@contextmanager
def hooked(
    module: nn.Module, points: Sequence[FeaturePoint], change: Callable[[Tensor], Tensor] | None = None
) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Collect the outputs of modules in a forward pass, by module name and number of the call.

    The pass is not compiled: hooks that are registered after `torch.compile` traced a module are ignored.

    Args:
        module: the model.
        points: whose outputs are collected.
        change: applied to each output, which the result replaces; only for modules that return a tensor.
    """
    outputs: dict[tuple[str, int], Tensor] = {}
    counts: dict[str, int] = {}

    def keep(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            number = counts.get(name, 0)
            counts[name] = number + 1
            tensor = first_tensor(output)
            if tensor is None:
                return None
            outputs[name, number] = tensor if change is None else change(tensor)
            return outputs[name, number] if change is not None and isinstance(output, Tensor) else None

        return hook

    handles = [
        module.get_submodule(name).register_forward_hook(keep(name))
        for name in dict.fromkeys(point.name for point in points)
    ]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _writing(module: nn.Module, block: str, writing: TokenWriting | None) -> Iterator[None]:
    """Within the forward pass of a block, `writing` is active."""
    if writing is None:
        yield
        return
    target = module.get_submodule(block)
    before = target.register_forward_pre_hook(lambda *_: _enter(writing))
    after = target.register_forward_hook(lambda *_: _exit(writing), always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _enter(mode: TorchFunctionMode) -> None:
    mode.__enter__()


def _exit(mode: TorchFunctionMode) -> None:
    mode.__exit__(None, None, None)


class HookedTrunk(nn.Module):
    """A trainable copy of a hooked model without its head, with timm's method `forward_intermediates`.

    Args:
        model: the adapter of the classifier.

    Raises:
        InputError: the model has no feature maps.
    """

    def __init__(self, model: HookedModel) -> None:
        super().__init__()
        self._points, self._forward = model.layout, model.forward
        self.model = copy.deepcopy(model.module)
        for name in model._heads:
            self.model.set_submodule(name, nn.Identity())
        self.requires_grad_(True)
        if self._points.blocks:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(not any(part in name for part in EMBEDDINGS))

    def forward_intermediates(
        self, inputs: Tensor, indices: list[int] | None = None, output_fmt: str = "NCHW"
    ) -> tuple[Tensor, list[Tensor]]:
        """The final map and the stages of inputs `[B, C, H, W]`, all `[B, C', h, w]`.

        Args:
            inputs: normalised images.
            indices: indices of the stages; None = all.
            output_fmt: only `NCHW`.
        """
        layout = self._points
        points = [layout.stages[index] for index in (range(len(layout.stages)) if indices is None else indices)]
        with hooked(self.model, [*points, layout.final]) as outputs:
            _ = self.model(inputs) if self._forward is None else self._forward(self.model, inputs)
        maps = [point.as_map(outputs[point.name, point.number]) for point in (*points, layout.final)]
        return maps[-1], maps[:-1]
