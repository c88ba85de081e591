"""Cut a network at an inner representation: run the layers before it once and those after it many times.

Path methods differentiate the class score at many interpolants of an inner representation, and only the layers after
that representation depend on the interpolant. The cut works on any model: while the model's own forward method runs,
the calls that finished before the cut return their recorded outputs. Skip connections, position embeddings and heads
are therefore the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError
from ltx.runtime.private_api import tree_leaves, tree_map

RECOMPUTED = object()
"""Marks a call whose output is computed again on replay: its inputs have no batch dimension (position tables)."""


class CutReached(Exception):  # noqa: N818 - not an error: it leaves the forward pass at the cut
    """Raised in a forward pass when it reaches the cut, with the representation there."""

    def __init__(self, value: Tensor, output: Any = None) -> None:
        self.value = value
        self.output = value if output is None else output


@dataclass
class Recording:
    """A forward pass up to a cut.

    Attributes:
        model: the network.
        inputs: the input of the network, `[B, …]`: normalised images.
        value: the representation at the cut, `[B, …]`; it keeps its graph if gradients were enabled.
        calls: the outermost calls that finished before the cut, in order, with their outputs or `RECOMPUTED`.
        module: the module whose output is cut; None if the cut is inside a module.
        output: the complete output of `module`, of which `value` is the tensor at `position`.
        position: index of `value` in `output` if that is a tuple.
        overwritten: whether a replay overwrote recorded outputs (a block may add its shortcut to its input in place);
            None before the first replay.
    """

    model: nn.Module
    inputs: Tensor
    value: Tensor
    calls: list[tuple[nn.Module, Any]]
    module: nn.Module | None = None
    output: Any = None
    position: int | None = None
    overwritten: bool | None = None

    def tensors(self) -> list[Tensor]:
        """Every tensor returned before the cut, in a fixed order."""
        return [leaf for leaf in tree_leaves([out for _, out in self.calls]) if isinstance(leaf, Tensor)]

    @contextmanager
    def replaying(self, repeats: int, value: Tensor | None = None) -> Iterator[list[Tensor]]:
        """Context in which a forward pass of the model runs only the layers after the cut.

        Rows are ordered repeats first: row `k·B + b` is repeat `k` of image `b`. The model must be called with `inputs`
        repeated in the same way. One context serves one forward pass.

        Args:
            repeats: how often the recorded batch is repeated.
            value: output of `module` in this pass, `[repeats·B, …]`.

        Yields:
            If gradients are enabled, repeated and detached copies of `tensors()` as the layers after the cut receive
            them. They are leaves of the graph; their gradients belong to the layers before the cut.
        """
        gradients = torch.is_grad_enabled()
        copies: dict[int, Tensor] = {}
        checked: list[Tensor] = []

        def repeat(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) in copies:
                return copies[id(leaf)]
            if gradients and leaf.requires_grad:
                copies[id(leaf)] = leaf.detach().repeat(repeats, *[1] * (leaf.ndim - 1)).requires_grad_()
                return copies[id(leaf)]
            if repeats == 1 and self.overwritten is False:
                return leaf.detach()
            copy = leaf.detach().repeat(repeats, *[1] * (leaf.ndim - 1))
            if self.overwritten is None:
                checked.append(copy)
            return copy

        answers: dict[nn.Module, list[Callable[[], Any] | None]] = {}
        for module, output in self.calls:
            answer = None if output is RECOMPUTED else partial(tree_map, repeat, output)
            answers.setdefault(module, []).append(answer)
        if self.module is not None and value is not None:
            answers.setdefault(self.module, []).append(partial(self._cut_output, value, repeat))
        leaves = [repeat(leaf) for leaf in self.tensors() if leaf.requires_grad] if gradients else []
        forwards = {module: _answering(module.forward, queue) for module, queue in answers.items()}
        with replaced_forwards(forwards), not_in_place(self.model):
            yield leaves
        if self.overwritten is None:
            self.overwritten = any(copy._version for copy in checked)

    def _cut_output(self, value: Tensor, repeat: Callable[[Any], Any]) -> Any:
        if self.position is None:
            return value.clone()
        outputs = list(self.output)
        outputs[self.position] = value.clone()
        return tuple(x if i == self.position else tree_map(repeat, x) for i, x in enumerate(outputs))


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Context in which modules run other forward methods; on exit, methods set on instances are restored too."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            object.__setattr__(module, "forward", forward)
        yield
    finally:
        for module, previous in before.items():
            module.__dict__.pop("forward", None)
            if previous is not None:
                object.__setattr__(module, "forward", previous)


def _answering(forward: Callable[..., Any], answers: list[Callable[[], Any] | None]) -> Callable[..., Any]:
    """A forward method whose first calls return these answers (None = run `forward`); later calls run `forward`."""
    queue = iter(answers)

    def answer(*args: Any, **kwargs: Any) -> Any:
        recorded = next(queue, None)
        return recorded() if recorded is not None else forward(*args, **kwargs)

    return answer


def record(
    model: nn.Module, module: nn.Module | None, run: Callable[[], Any], position: int | None = None
) -> Recording:
    """Run a model up to the cut.

    Args:
        model: the network.
        module: the module whose output is cut; None if `run` itself raises `CutReached`.
        run: calls `model` on the images; may run inside `Recording.replaying` of an earlier cut.
        position: index of the representation in the output of `module` if that is a tuple.

    Raises:
        InputError: `module` is never called, or does not return one tensor.
    """
    calls: list[tuple[nn.Module, Any]] = []
    starts: list[int] = []
    inputs: list[Tensor] = []  # the images, which the first call receives

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not inputs:
            inputs.extend(_batches((args, kwargs))[:1])
        starts.append(len(calls))

    def leave(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        start = starts.pop()
        if called is module:
            value = output if position is None else output[position]
            if not isinstance(value, Tensor):
                raise InputError(f"layer {_name(model, module)} returns a {type(value).__name__}, not one tensor")
            raise CutReached(value, output)
        del calls[start:]  # a finished call includes all calls inside it
        has_batch = any(len(leaf) == len(inputs[0]) for leaf in _batches((args, kwargs)))
        calls.append((called, output if has_batch else RECOMPUTED))

    with not_in_place(model):
        handles = []
        try:
            for each in model.modules():
                handles.append(each.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(each.register_forward_hook(leave, with_kwargs=True))
            run()
        except CutReached as cut:
            return Recording(model, inputs[0], cut.value, calls, module, cut.output, position)
        finally:
            for handle in handles:
                handle.remove()
    name = "an attention" if module is None else f"layer {_name(model, module)}"
    raise InputError(f"{name} is never computed by {type(model).__name__}; choose another layer")


def gradient_after(classifier: Classifier, prefix: Recording, value: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the class logit at the cut; only the layers after the cut run.

    Args:
        classifier: the explained model.
        prefix: the recorded pass up to the cut.
        value: representation at the cut, `[K·B, …]`, repeats first.
        targets: class indices `[K·B]`.

    Returns:
        A tensor of the shape of `value`.
    """
    leaf = value.detach().requires_grad_()
    repeats = len(value) // len(prefix.value)
    with torch.enable_grad(), prefix.replaying(repeats, leaf):
        inputs = prefix.inputs if repeats == 1 else prefix.inputs.repeat(repeats, 1, 1, 1)
        score = classifier.logits(inputs).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(score, leaf)[0]


@contextmanager
def not_in_place(model: nn.Module) -> Iterator[None]:
    """Context in which activations do not overwrite their inputs, so that hooked tensors do not change."""
    changed = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    try:
        for module in changed:
            module.inplace = False  # type: ignore[assignment]  # a bool attribute that nn.Module does not declare
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]  # as above


def _batches(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.ndim]


def _name(model: nn.Module, module: nn.Module) -> str:
    return next((name for name, each in model.named_modules() if each is module), type(module).__name__)
