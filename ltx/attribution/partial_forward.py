"""Cut a network at one module's output: run the part before it once, and the part after it as often as a path needs.

Path methods differentiate the class score at many interpolants of an inner representation. Only the layers after that
representation change from one interpolant to the next, so only they are run again. The cut works on any model: the
calls that finished before the cut answer from memory while the model's own forward method runs, so skips, position
embeddings and heads are those of the model, not a copy of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ltx.classifier.classifier import Classifier
from ltx.runtime.errors import InputError
from ltx.runtime.private_api import tree_leaves, tree_map

ANEW = object()
"""Stands for the output of a call that is not remembered: it saw no images, so that it has no row for each."""


class _Reached(Exception):  # noqa: N818 - no error: it leaves the forward pass where the cut is
    def __init__(self, value: Tensor) -> None:
        self.value = value


@dataclass
class Recording:
    """One forward pass up to the output of a module.

    Attributes:
        model: the network that was run.
        module: where it was cut.
        value: the output of `module`, `[B, …]`; it keeps its graph where gradients were on.
        calls: the outermost calls that finished before the cut, in order, with what they returned, or `ANEW`.
    """

    model: nn.Module
    module: nn.Module
    value: Tensor
    calls: list[tuple[nn.Module, Any]]

    def tensors(self) -> list[Tensor]:
        """Every tensor that was returned before the cut, in a fixed order."""
        found: list[Tensor] = []
        tree_map(lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None, [out for _, out in self.calls])
        return found

    @contextmanager
    def replaying(self, value: Tensor, repeats: int = 1) -> Iterator[list[Tensor]]:
        """Within it the model runs only what comes after the cut, with `value` `[repeats·B, …]` as the cut's output.

        Rows are ordered repeats first: row `k·B + b` is repeat `k` of image `b`; the images that the model is given
        must be repeated likewise (they are not looked at where a first layer has answered from memory).

        Each context serves one forward pass.

        Yields:
            Where gradients are on, copies of `tensors()`, repeated and detached, as the layers after the cut see them:
            leaves at which a caller picks up the gradient that goes on to the layers before the cut. Else nothing.
        """
        gradients = torch.is_grad_enabled()
        grown: dict[int, Tensor] = {}

        def grow(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if id(leaf) in grown:
                return grown[id(leaf)]
            # Memory of its own: a block may add its shortcut into what it is given.
            copy = leaf.detach().repeat(repeats, *[1] * (leaf.ndim - 1))
            if gradients and leaf.requires_grad:
                grown[id(leaf)] = copy = copy.requires_grad_()
            return copy  # not remembered without gradients: a big early map lives no longer than the call that asks

        answers: dict[nn.Module, list[Callable[[], Any] | None]] = {}
        for module, output in self.calls:
            reply = None if output is ANEW else partial(tree_map, grow, output)
            answers.setdefault(module, []).append(reply)
        answers.setdefault(self.module, []).append(value.clone)
        leaves = [grow(leaf) for leaf in self.tensors()] if gradients else []
        forwards = {module: _answering(module.forward, replies) for module, replies in answers.items()}
        with answered_by(forwards), not_in_place(self.model):
            yield leaves


@contextmanager
def answered_by(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Modules run these forward methods; afterwards their own ones again, be they their classes' or set on them."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            object.__setattr__(module, "forward", forward)
        yield
    finally:
        for module, own in before.items():
            module.__dict__.pop("forward", None)
            if own is not None:
                object.__setattr__(module, "forward", own)


def _answering(own: Callable[..., Any], replies: list[Callable[[], Any] | None]) -> Callable[..., Any]:
    """A forward method that answers the first calls from memory, or runs where that holds nothing, and then runs on."""
    waiting = iter(replies)

    def forward(*args: Any, **kwargs: Any) -> Any:
        reply = next(waiting, None)
        return reply() if reply is not None else own(*args, **kwargs)

    return forward


def record(model: nn.Module, module: nn.Module, run: Callable[[], Any]) -> Recording:
    """Run the model up to the output of `module` and no further.

    Args:
        run: calls `model` on the images; may itself run inside `Recording.replaying` of an earlier cut.

    Raises:
        InputError: `module` is never called, or returns no tensor.
    """
    calls: list[tuple[nn.Module, Any]] = []
    depth: list[int] = []
    rows: list[int] = []  # of the images, as the model itself is called with them

    def enter(_: nn.Module, given: Any) -> None:
        if not rows:
            rows.append(len(given[0]))
        depth.append(len(calls))

    def leave(called: nn.Module, given: Any, output: Any) -> None:
        start = depth.pop()
        if called is module:
            if not isinstance(output, Tensor):
                raise InputError(f"layer {_name(model, module)} returns a {type(output).__name__}, not one tensor")
            raise _Reached(output)
        del calls[start:]  # a finished call stands for all that it called
        # A table of positions, say, is no batch: the rows of what comes of it must not be repeated.
        batch = any(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) in rows for leaf in tree_leaves(given))
        calls.append((called, output if batch else ANEW))

    with not_in_place(model):
        handles = []
        try:
            for each in model.modules():
                handles += [each.register_forward_pre_hook(enter), each.register_forward_hook(leave)]
            run()
        except _Reached as reached:
            return Recording(model, module, reached.value, calls)
        finally:
            for handle in handles:
                handle.remove()
    raise InputError(f"layer {_name(model, module)} is never called by {type(model).__name__}; choose another layer")


def gradient_after(classifier: Classifier, before: Recording, value: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the class logit at the cut; only the layers after it are run.

    Args:
        value: what stands at the cut, `[K·B, …]`, repeats first.
        images: the images `[K·B, 3, H, W]`, repeated likewise.
        targets: classes `[K·B]`.

    Returns:
        A tensor like `value`.
    """
    leaf = value.detach().requires_grad_()
    with torch.enable_grad(), before.replaying(leaf, len(value) // len(before.value)):
        score = classifier(images).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(score, leaf)[0]


@contextmanager
def not_in_place(model: nn.Module) -> Iterator[None]:
    """Activations keep their input: what a hook has seen must not change under it. Restored on leaving."""
    changed = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    try:
        for module in changed:
            module.inplace = False  # type: ignore[assignment]
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]


def _name(model: nn.Module, module: nn.Module) -> str:
    return next((name for name, each in model.named_modules() if each is module), type(module).__name__)
