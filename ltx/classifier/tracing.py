"""One forward pass of a module, recorded call by call: where its feature maps, tokens and classification head are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

Layout = Literal["NCHW", "NHWC", "tokens"]

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

MAX_PREFIX = 16
"""Largest number of class, distillation and register tokens that is considered."""


@dataclass(eq=False)
class Call:
    """One call of a submodule.

    Attributes:
        name: name of the module in `named_modules()`.
        module: the module.
        number: how many times the module was called before.
        parent: the enclosing call.
        inputs: the tensors among its arguments.
        output: its output, or the first tensor of it; None if there is none.
    """

    name: str
    module: nn.Module
    number: int
    parent: Call | None
    inputs: list[Tensor] = field(default_factory=list)
    output: Tensor | None = None


@dataclass(frozen=True)
class FeaturePoint:
    """The output of a module, read as a feature map.

    Attributes:
        name: name of the module.
        number: which of its calls in a forward pass, from 0.
        layout: `NCHW`, `NHWC`, or `tokens` = `[B, prefix + h·w, C]`.
        grid: `(h, w)` in the recorded pass.
        prefix: number of tokens before the patch tokens.
    """

    name: str
    number: int
    layout: Layout
    grid: tuple[int, int]
    prefix: int = 0

    def as_map(self, output: Tensor) -> Tensor:
        """The module's output as `[B, C, h, w]`, without prefix tokens."""
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        height, width = self.grid
        patches: Tensor = output[:, self.prefix :].transpose(1, 2).unflatten(2, (height, width))
        return patches


@dataclass(frozen=True)
class ModelLayout:
    """Where the parts of a model are.

    Attributes:
        stages: feature maps, shallow to deep: each resolution of a pyramid, each block of a transformer.
        final: the last map before pooling.
        prefix: number of tokens before the patch tokens.
        norm: name of the norm between the last block of a transformer and the head; None without one.
        blocks: whether the stages are transformer blocks over the same tokens.
    """

    stages: tuple[FeaturePoint, ...]
    final: FeaturePoint
    prefix: int = 0
    norm: str | None = None
    blocks: bool = False


def first_tensor(output: Any) -> Tensor | None:
    """A tensor, or the first tensor of a tuple, list or dict; None if there is none."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)):
        return next((part for part in output if isinstance(part, Tensor)), None)
    if isinstance(output, dict):
        return next((part for part in output.values() if isinstance(part, Tensor)), None)
    return None


def record(module: nn.Module, run: Callable[[], Any]) -> list[Call]:
    """The calls of all submodules during `run()`, in the order in which they return."""
    returned: list[Call] = []
    stack: list[Call] = []
    counts: dict[nn.Module, int] = defaultdict(int)
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            stack.append(Call(name, called, counts[called], stack[-1] if stack else None, inputs))
            counts[called] += 1

        return hook

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        call = stack.pop()
        call.output = first_tensor(output)
        returned.append(call)

    try:
        for name, child in module.named_modules():
            if isinstance(child, torch.jit.ScriptModule):
                continue  # it has no hooks
            handles.append(child.register_forward_pre_hook(enter(name), with_kwargs=True))
            handles.append(child.register_forward_hook(leave))
        run()
    finally:
        for handle in handles:
            handle.remove()
    return returned


class LayoutFinder:
    """Infers a model's layout from a recorded pass of one image.

    Args:
        calls: see `record`.
        size: height and width of the image.
        channels: its number of channels.
        grid: height and width of the patch tokens; None = inferred from the patch embedding.
        prefix: number of prefix tokens; None = inferred.
    """

    def __init__(
        self,
        calls: list[Call],
        size: tuple[int, int],
        channels: int,
        grid: tuple[int, int] | None = None,
        prefix: int | None = None,
    ) -> None:
        self.calls, self.size, self.channels = calls, size, channels
        self.grid, self.prefix = grid, prefix
        self.points = {id(call): point for call in calls if call.name and (point := self._point(call)) is not None}

    # -- one tensor ------------------------------------------------------------------------------------------------

    def _point(self, call: Call) -> FeaturePoint | None:
        return None if call.output is None else self.point(call.name, call.number, call.output)

    def point(self, name: str, number: int, output: Tensor) -> FeaturePoint | None:
        """The feature point with this output, or None if it is not a feature map."""
        read = self._read(output)
        return None if read is None else FeaturePoint(name, number, *read)

    def _read(self, tensor: Tensor) -> tuple[Layout, tuple[int, int], int] | None:
        shape = tuple(tensor.shape)
        if len(shape) not in (3, 4) or shape[0] != 1:
            return None
        if len(shape) == 4:
            layouts: tuple[tuple[Layout, tuple[int, ...]], ...] = (("NCHW", shape[2:]), ("NHWC", shape[1:3]))
            readings = []
            for layout, grid in layouts:
                strides = [side / cells for side, cells in zip(self.size, grid, strict=True)]
                # A map has about the same stride in both directions; heads, windows and attention matrices have not.
                if min(grid) >= 2 and 2 * min(strides) >= max(strides) and min(strides) >= 1:
                    readings.append((max(strides) / min(strides), layout, (grid[0], grid[1])))
            best = min(readings, key=lambda reading: reading[0], default=None)
            return None if best is None else (best[1], best[2], 0)
        tokens = self._token_grid(shape[1])
        return None if tokens is None else ("tokens", *tokens)

    def _token_grid(self, count: int) -> tuple[tuple[int, int], int] | None:
        """Grid and prefix of `count` tokens: a known grid, or one halved by patch merging."""
        for height, width in self._grids():
            prefix = count - height * width
            if prefix == self.prefix or (self.prefix is None and 0 <= prefix <= MAX_PREFIX):
                return (height, width), prefix
        return None

    def _grids(self) -> Iterator[tuple[int, int]]:
        if self.grid is not None:
            yield self.grid
            return
        for height, width in self._patch_grids():
            while min(height, width) >= 2:
                yield height, width
                if height % 2 or width % 2:
                    break
                height, width = height // 2, width // 2

    def _patch_grids(self) -> Iterator[tuple[int, int]]:
        """Output sizes of the convolutions, which include the patch embedding."""
        seen: dict[tuple[int, int], None] = {}
        for call in self.calls:
            if isinstance(call.module, nn.Conv2d) and call.output is not None and call.output.ndim == 4:
                seen[int(call.output.shape[2]), int(call.output.shape[3])] = None
        yield from sorted(seen, key=math.prod, reverse=True)

    # -- the whole model -------------------------------------------------------------------------------------------

    def find(self) -> ModelLayout | None:
        """The layout of the model; None if it has no feature map of more than one position."""
        if not self.points:
            return None
        return self._blocks() or self._pyramid()

    def _blocks(self) -> ModelLayout | None:
        """A plain transformer: a chain of sibling modules of one class over the same tokens."""
        chains: dict[tuple[str, type, tuple[int, ...]], list[Call]] = defaultdict(list)
        modules = {call.name: call.module for call in self.calls}
        for call in self.calls:
            point = self.points.get(id(call))
            container, _, leaf = call.name.rpartition(".")
            is_listed = leaf.isdigit() or isinstance(modules.get(container), nn.Sequential)
            if point is not None and point.layout == "tokens" and call.output is not None and is_listed:
                chains[container, type(call.module), tuple(call.output.shape)].append(call)
        if not chains:
            return None
        chain = max(chains.values(), key=len)
        sizes = {point.grid for point in self.points.values() if point.layout == "tokens"}
        if len(chain) < 2 or len(sizes) > 1:
            return None
        last = chain[-1]
        stages = tuple(self.points[id(call)] for call in chain)
        after = self.calls[self.calls.index(last) + 1 :]
        norms = [call for call in after if id(call) in self.points and isinstance(call.module, NORMS)]
        final = self.points[id(norms[0])] if norms else stages[-1]
        norm = norms[0].name if norms else self._late_norm(after, stages[-1], last)
        return ModelLayout(stages, final, stages[-1].prefix, norm, blocks=True)

    def _late_norm(self, after: list[Call], stage: FeaturePoint, last: Call) -> str | None:
        """A norm of the pooled tokens (BEiT), which normalises single tokens alike."""
        width = last.output.shape[-1] if last.output is not None else 0
        for call in after:
            pooled = call.output is not None and call.output.ndim == 2 and call.output.shape[-1] == width
            if pooled and isinstance(call.module, nn.LayerNorm):
                return call.name
        return None

    def _pyramid(self) -> ModelLayout | None:
        """A network of several resolutions: a stage is the input of the module that reduces it to the next one."""
        containers = self._containers()
        maps = [call for call in self.calls if id(call) in self.points and id(call) not in containers]
        # The outermost call that returns a tensor returns last.
        producers = {id(call.output): call for call in maps}
        makers = {id(call.output): call for call in reversed(maps)}
        candidates = [call for call in maps if self._is_outermost(call, containers)]
        if not candidates:
            return None
        resolutions: dict[tuple[int, int], Call] = {}
        for call in candidates:  # fallback: the last output of each resolution, deeper resolutions only
            grid = self.points[id(call)].grid
            if all(math.prod(grid) <= math.prod(other) for other in resolutions):
                resolutions[grid] = call
        self._add_stem(resolutions, producers)
        for call in self.calls:
            reduced = self._reduction(call, list(resolutions), producers)
            if reduced is not None:
                grid, producer = reduced
                resolutions[grid] = producer
        final = resolutions[min(resolutions, key=math.prod)]
        ordered = sorted(resolutions, key=math.prod, reverse=True)
        stages = [self.points[id(resolutions[grid])] for grid in ordered]
        norm = makers[id(final.output)]
        if next(norm.module.parameters(), None) is None:  # a permutation
            norm = self._source(norm, makers) or norm
        before = self._source(norm, producers) if isinstance(norm.module, NORMS) else None
        if before is None:
            return ModelLayout(tuple(stages), self.points[id(final)])
        stages[-1] = self.points[id(before)]
        return ModelLayout(tuple(stages), self.points[id(final)], 0, norm.name)

    def _add_stem(self, resolutions: dict[tuple[int, int], Call], producers: dict[int, Call]) -> None:
        """Add the map that a pooling layer inside the stem reduces to the first resolution."""
        first = max(resolutions, key=math.prod)
        for call in self.calls:
            point = self.points.get(id(call))
            producer = producers.get(id(call.inputs[0])) if call.inputs else None
            is_pooling = next(call.module.parameters(), None) is None
            if point is None or point.grid != first or producer is None or not is_pooling:
                continue
            if math.prod(self.points[id(producer)].grid) > math.prod(first):
                resolutions[self.points[id(producer)].grid] = producer
                return

    def _source(self, call: Call, producers: dict[int, Call]) -> Call | None:
        """The call whose output is the first input of another call of the same size."""
        if not call.inputs or call.output is None or call.inputs[0].numel() != call.output.numel():
            return None
        return producers.get(id(call.inputs[0]))

    def _reduction(
        self, call: Call, resolutions: list[tuple[int, int]], producers: dict[int, Call]
    ) -> tuple[tuple[int, int], Call] | None:
        """Grid and producer of the input of a module that reduces one resolution to the next one or pools the last."""
        ordered = sorted(resolutions, key=math.prod, reverse=True)
        for tensor in call.inputs:
            producer = producers.get(id(tensor))
            if producer is None or call.output is None:
                continue
            grid = self.points[id(producer)].grid
            if grid not in resolutions:
                continue
            own = self.points.get(id(call))
            later = ordered.index(grid) + 1
            follows = ordered[later] if later < len(ordered) else None
            pooled = follows is None and own is None and call.output.flatten(1).shape[1] == self._channels(producer)
            if (own is not None and own.grid == follows) or pooled:
                return grid, producer
        return None

    def _channels(self, call: Call) -> int:
        if call.output is None:
            return 0
        return int(call.output.shape[1 if self.points[id(call)].layout == "NCHW" else -1])

    def _containers(self) -> set[int]:
        """Calls that go through three resolutions or more: a backbone, not a block."""
        grids: dict[int, set[tuple[int, int]]] = defaultdict(set)
        for call in self.calls:
            above = call.parent if id(call) in self.points else None
            while above is not None:
                grids[id(above)].add(self.points[id(call)].grid)
                above = above.parent
        return {call for call, seen in grids.items() if len(seen) > 2}

    def _is_outermost(self, call: Call, containers: set[int]) -> bool:
        """Whether no enclosing call returns a feature map, apart from containers and `nn.Sequential`s."""
        above = call.parent
        while above is not None:
            is_block = id(above) in self.points and id(above) not in containers
            if is_block and not isinstance(above.module, nn.Sequential):
                return False
            above = above.parent
        return True


def find_head(calls: list[Call], logits: Tensor) -> list[str]:
    """Names of the linear layers whose output, or mean of outputs, is the logits `[1, K]`; empty if there are none."""
    linear = [
        call
        for call in calls
        if isinstance(call.module, (nn.Linear, nn.Conv2d))
        and call.output is not None
        and call.output.flatten(1).shape == logits.shape
    ]
    for call in reversed(linear):
        if call.output is not None and torch.allclose(call.output.flatten(1), logits, rtol=1e-4, atol=1e-6):
            return [call.name]
    outputs = [call.output.flatten(1) for call in linear if call.output is not None]
    if len(outputs) > 1 and torch.allclose(torch.stack(outputs).mean(0), logits, rtol=1e-4, atol=1e-6):
        return [call.name for call in linear]
    return []
