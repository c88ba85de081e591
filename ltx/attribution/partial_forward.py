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
        value: the representation at the cut, `[B, …]`; it keeps its graph if gradients were enabled.
        calls: the outermost calls that finished before the cut, in order, with their outputs or `RECOMPUTED`.
        module: the module whose output is cut; None if the cut is inside a module.
        output: the complete output of `module`, of which `value` is the tensor at `position`.
        position: index of `value` in `output` if that is a tuple.
    """

    model: nn.Module
    value: Tensor
    calls: list[tuple[nn.Module, Any]]
    module: nn.Module | None = None
    output: Any = None
    position: int | None = None

    def tensors(self) -> list[Tensor]:
        """Every tensor returned before the cut, in a fixed order."""
        return [leaf for leaf in tree_leaves([out for _, out in self.calls]) if isinstance(leaf, Tensor)]

    @contextmanager
    def replaying(self, repeats: int, value: Tensor | None = None) -> Iterator[list[Tensor]]:
        """Context in which a forward pass of the model runs only the layers after the cut.

        Rows are ordered repeats first: row `k·B + b` is repeat `k` of image `b`. The images passed to the model must be
        repeated in the same way; they are ignored if the first layer finished before the cut. One context serves one
        forward pass.

        Args:
            repeats: how often the recorded batch is repeated.
            value: output of `module` in this pass, `[repeats·B, …]`.

        Yields:
            If gradients are enabled, repeated and detached copies of `tensors()` as the layers after the cut receive
            them. They are leaves of the graph; their gradients belong to the layers before the cut.
        """
        gradients = torch.is_grad_enabled()
        copies: dict[int, Tensor] = {}

        def repeat(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) in copies:
                return copies[id(leaf)]
            # A copy with its own memory: a block may add its shortcut to its input in place.
            copy = leaf.detach().repeat(repeats, *[1] * (leaf.ndim - 1))
            if gradients and leaf.requires_grad:
                copies[id(leaf)] = copy = copy.requires_grad_()
            return copy  # without gradients it is not kept: a large early map lives only as long as its caller

        answers: dict[nn.Module, list[Callable[[], Any] | None]] = {}
        for module, output in self.calls:
            answer = None if output is RECOMPUTED else partial(tree_map, repeat, output)
            answers.setdefault(module, []).append(answer)
        if self.module is not None and value is not None:
            answers.setdefault(self.module, []).append(partial(self._cut_output, value, repeat))
        leaves = [repeat(leaf) for leaf in self.tensors()] if gradients else []
        forwards = {module: _answering(module.forward, queue) for module, queue in answers.items()}
        with replaced_forwards(forwards), not_in_place(self.model):
            yield leaves

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
    batch_sizes: list[int] = []  # of the images, which the first call receives

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not batch_sizes:
            batch_sizes.extend(_batch_sizes((args, kwargs))[:1])
        starts.append(len(calls))

    def leave(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        start = starts.pop()
        if called is module:
            value = output if position is None else output[position]
            if not isinstance(value, Tensor):
                raise InputError(f"layer {_name(model, module)} returns a {type(value).__name__}, not one tensor")
            raise CutReached(value, output)
        del calls[start:]  # a finished call includes all calls inside it
        has_batch = bool(set(_batch_sizes((args, kwargs))) & set(batch_sizes))
        calls.append((called, output if has_batch else RECOMPUTED))

    with not_in_place(model):
        handles = []
        try:
            for each in model.modules():
                handles.append(each.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(each.register_forward_hook(leave, with_kwargs=True))
            run()
        except CutReached as cut:
            return Recording(model, cut.value, calls, module, cut.output, position)
        finally:
            for handle in handles:
                handle.remove()
    name = "an attention" if module is None else f"layer {_name(model, module)}"
    raise InputError(f"{name} is never computed by {type(model).__name__}; choose another layer")


def gradient_after(classifier: Classifier, prefix: Recording, value: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the class logit at the cut; only the layers after the cut run.

    Args:
        classifier: the explained model.
        prefix: the recorded pass up to the cut.
        value: representation at the cut, `[K·B, …]`, repeats first.
        images: images `[K·B, 3, H, W]`, repeated in the same way.
        targets: class indices `[K·B]`.

    Returns:
        A tensor of the shape of `value`.
    """
    leaf = value.detach().requires_grad_()
    with torch.enable_grad(), prefix.replaying(len(value) // len(prefix.value), leaf):
        score = classifier(images).gather(1, targets[:, None]).sum()
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


def _batch_sizes(values: Any) -> list[int]:
    return [len(leaf) for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.ndim]


def _name(model: nn.Module, module: nn.Module) -> str:
    return next((name for name, each in model.named_modules() if each is module), type(module).__name__)
