"""One forward pass of a classifier, traced: module calls, feature maps and attention matrices."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx.attribution.interception import explicit_attention
from ltx.classifier.attention_operations import PRODUCTS, SOFTMAX, AttentionMode, over_last_dimension
from ltx.classifier.classifier import Classifier


@dataclass(eq=False)
class ModuleCall:
    """A module call of the traced pass.

    Attributes:
        module: the module.
        parent: the enclosing call; None for the model itself.
        shape: shape of the output, or of its only tensor that can be a feature map; None if there is none, or if it
            does not depend on the image.
        position: index of that tensor if the output is a tuple; None if the output is the tensor itself.
    """

    module: nn.Module
    parent: ModuleCall | None
    shape: tuple[int, ...] | None = None
    position: int | None = None

    def callers(self) -> list[ModuleCall]:
        """The call and all enclosing calls, innermost first."""
        calls, call = [], self
        while call is not None:
            calls.append(call)
            call = call.parent  # type: ignore[assignment]  # the loop ends at None
        return calls


@dataclass(eq=False)
class AttentionCall:
    """An attention matrix of the traced pass.

    Attributes:
        shape: its shape, `[1, heads, N, M]` or `[heads, N, M]`.
        caller: the innermost module call in which it is computed.
        calls_before: number of module calls that finished before it.
        follows_previous: whether it depends on the previous matrix of the same shape.
        rows_read: for each token whether the logits depend on its attention; only for the last square matrix.
        later_modules: modules with linear layers that run on the tokens read after the last square matrix, and treat
            each token separately.
    """

    shape: tuple[int, ...]
    caller: ModuleCall
    calls_before: int
    follows_previous: bool = True
    rows_read: list[bool] | None = None
    later_modules: list[nn.Module] = field(default_factory=list)


@dataclass
class ModelTrace:
    """Module calls, in the order in which they finish, and attention matrices, in the order of their computation."""

    calls: list[ModuleCall]
    attention: list[AttentionCall]


_traces: weakref.WeakKeyDictionary[Classifier, tuple[tuple[Any, ...], ModelTrace]] = weakref.WeakKeyDictionary()


def model_trace(classifier: Classifier) -> ModelTrace:
    """The trace of a classifier for one image; cached until its modules or its input size change."""
    key = (classifier.input_size, *classifier.model.modules())
    cached = _traces.get(classifier)
    if cached is None or cached[0] != key:
        # Methods hook the model's own modules, which a folded copy does not run.
        with classifier.unfolded(), torch.inference_mode(False), torch.enable_grad():
            cached = _traces[classifier] = key, _Tracer(classifier.model).run(classifier)
    return cached[1]


@dataclass(eq=False)
class _TokenCall:
    """A call from tokens to tokens after an attention matrix."""

    module: nn.Module
    parents: list[nn.Module]
    tokens: Tensor


class _Tracer:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: list[ModuleCall] = []
        self.attention: list[AttentionCall] = []
        self.matrices: list[Tensor] = []
        self.stack: list[tuple[ModuleCall, int]] = []  # with the number of attention matrices before it
        self.token_calls: list[_TokenCall] = []

    def run(self, classifier: Classifier) -> ModelTrace:
        generator = torch.Generator().manual_seed(0)
        images = (
            torch.rand(1, classifier.channels, *classifier.input_size, generator=generator)
            .to(classifier.device)
            .requires_grad_()
        )
        handles = []
        try:
            hookable = (m for m in self.model.modules() if not isinstance(m, torch.jit.ScriptModule))
            for module in hookable:
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._leave))
            with _AttentionTracing(self._attend):
                logits = classifier(images)
        finally:
            for handle in handles:
                handle.remove()
        self._analyse(logits)
        return ModelTrace(self.calls, self.attention)

    def _enter(self, module: nn.Module, _: Any) -> None:
        call = ModuleCall(module, self.stack[-1][0] if self.stack else None)
        self.stack.append((call, len(self.attention)))

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        call, before = self.stack.pop()
        tensors: dict[int | None, Tensor] = {None: output} if isinstance(output, Tensor) else {}
        if isinstance(output, (tuple, list)) and self.stack:  # the model itself may return maps next to its logits
            tensors = {i: x for i, x in enumerate(output) if isinstance(x, Tensor) and x.ndim in (3, 4) and len(x) == 1}
        tensors = {position: x for position, x in tensors.items() if x.requires_grad}
        if len(tensors) == 1:
            ((call.position, tensor),) = tensors.items()
            call.shape = tuple(tensor.shape)
            if before == len(self.attention) and len(inputs) == 1 and _is_tokens(inputs[0]) and _is_tokens(output):
                parents = [each.module for each in call.callers()[1:]]
                self.token_calls.append(_TokenCall(module, parents, inputs[0].detach()))
        self.calls.append(call)

    def _attend(self, matrix: Tensor) -> None:
        self.attention.append(AttentionCall(tuple(matrix.shape), self.stack[-1][0], len(self.calls)))
        self.matrices.append(matrix)
        if _is_square(matrix):
            self.token_calls.clear()

    def _analyse(self, logits: Tensor) -> None:
        square = [i for i, matrix in enumerate(self.matrices) if _is_square(matrix) and matrix.requires_grad]
        for previous, current in pairwise(square):
            total = self.matrices[current].sum()
            (gradient,) = torch.autograd.grad(total, self.matrices[previous], allow_unused=True, retain_graph=True)
            self.attention[current].follows_previous = gradient is not None
        if not square:
            return
        last, matrix = self.attention[square[-1]], self.matrices[square[-1]]
        weights = torch.linspace(0.5, 1.5, logits.shape[1], device=logits.device)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), matrix, allow_unused=True)
        if gradient is None:
            gradient = torch.zeros_like(matrix)
        last.rows_read = (gradient.flatten(0, -3) != 0).any(0).any(-1).tolist()
        last.later_modules = self._later_modules(last.rows_read)

    def _later_modules(self, rows_read: list[bool]) -> list[nn.Module]:
        selected: list[nn.Module] = []
        count = max((row + 1 for row, read in enumerate(rows_read) if read), default=len(rows_read))
        if 2 * count > len(rows_read):
            return selected  # nothing to save
        with torch.no_grad():
            for call in reversed(self.token_calls):  # enclosing calls first
                linear = [module for module in call.module.modules() if isinstance(module, nn.Linear)]
                if not linear or call.tokens.shape[1] != len(rows_read) or set(selected) & set(call.parents):
                    continue
                tokens = call.tokens.to(linear[0].weight.dtype)  # not that of autocast
                alone, all_tokens = call.module(tokens[:, :count]), call.module(tokens)
                if torch.allclose(alone, all_tokens[:, :count], rtol=1e-3, atol=1e-5):
                    selected.append(call.module)
        return selected


class _AttentionTracing(AttentionMode):
    """Passes every softmax over the last dimension that multiplies values to a function."""

    def __init__(self, seen: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.seen = seen
        self.candidates: dict[int, Tensor] = {}  # by storage: dropout and views keep it

    def operation(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func is F.scaled_dot_product_attention:
            return explicit_attention(self._fused, *args, **kwargs)
        if func in PRODUCTS and self.candidates:
            for operand in args:
                matrix = self.candidates.pop(_storage(operand), None)
                if matrix is not None:
                    self.seen(matrix)
        output = func(*args, **kwargs)
        if func in SOFTMAX and over_last_dimension(output, args, kwargs) and output.ndim >= 3:
            self.candidates[_storage(output)] = output
        return output

    def _fused(self, compute: Callable[[], Tensor]) -> Tensor:
        matrix = compute()
        self.seen(matrix)
        return matrix


def _storage(operand: Any) -> int:
    return operand.untyped_storage().data_ptr() if isinstance(operand, Tensor) else 0


def _is_square(matrix: Tensor) -> bool:
    return matrix.ndim in (3, 4) and matrix.shape[-2] == matrix.shape[-1] and (matrix.ndim == 3 or len(matrix) == 1)


def _is_tokens(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3 and len(value) == 1
