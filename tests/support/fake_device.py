"""CUDA tensors on a machine without CUDA: device mistakes raise, and synchronisations are counted."""

from __future__ import annotations

import copy
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")
PACKAGE = Path(__file__).parents[2] / "ltx"
CUDA = torch.device("cuda", 0)

aten: Any = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class FakeCuda:
    """A CUDA device whose tensors have shapes, types and a device, but no values.

    An operation that mixes devices raises, as on a real GPU. Where a value is needed on the host (`.item()`, `bool()`,
    `.tolist()`), the GPU would wait: the place is counted and the value is taken to be `assumed`. Gradients cannot be
    computed, because autograd asks the CUDA driver for its device; `fake_gradients` replaces them by empty tensors.

    Attributes:
        synchronisations: how often each line of the package waits for the GPU, as `"ltx/file.py:line kind"`: a value
            read on the host, or a blocking copy to or from it.
        assumed: the value of every number that is read on the host.
    """

    def __init__(self, assumed: float) -> None:
        self.assumed = assumed
        self.synchronisations: Counter[str] = Counter()

    def move(self, thing: T) -> T:
        """A copy of a tensor, a module, or an object that contains them, on the fake device.

        Build `thing` before `fake_cuda` is entered, as its initialisation needs values.
        """
        copies: dict[int, Any] = {}
        self._fake_tensors(thing, copies, set())
        return copy.deepcopy(thing, copies)

    def rand(self, *shape: int) -> Tensor:
        """A float32 tensor of that shape."""
        return torch.rand(*shape, device=CUDA)

    def classes(self, count: int) -> Tensor:
        """Class indices `[count]`."""
        return torch.zeros(count, dtype=torch.long, device=CUDA)

    def read(self, tensor: Tensor) -> float | int | bool:
        """The value that the host reads from a tensor of one element."""
        if tensor.device.type == "cuda":
            self.count("value read on the host")
        if tensor.dtype is torch.bool:
            return bool(self.assumed)
        return self.assumed if tensor.dtype.is_floating_point else int(self.assumed)

    def read_all(self, tensor: Tensor) -> Any:
        """The values that the host reads by `tensor.tolist()`, in one transfer."""
        value: Any = self.read(tensor)
        for size in reversed(tensor.shape):
            value = [value] * size
        return value

    def count(self, kind: str) -> None:
        """Count a synchronisation at the current line of the package."""
        self.synchronisations[f"{_line_of_the_package()} {kind}"] += 1

    def _fake_tensors(self, thing: Any, copies: dict[int, Any], seen: set[int]) -> None:
        """Put a fake copy of each tensor under `thing` into `copies`, by the tensor's id."""
        if id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            fake: Tensor = torch.empty_strided(thing.shape, thing.stride(), dtype=thing.dtype, device=CUDA)
            copies[id(thing)] = nn.Parameter(fake, thing.requires_grad) if isinstance(thing, nn.Parameter) else fake
        elif isinstance(thing, (dict, list, tuple)):
            for value in thing.values() if isinstance(thing, dict) else thing:
                self._fake_tensors(value, copies, seen)
        elif hasattr(thing, "__dict__") and not isinstance(thing, type):
            self._fake_tensors(vars(thing), copies, seen)


@contextmanager
def fake_cuda(assumed: float = 1.0) -> Iterator[FakeCuda]:
    """A fake CUDA device; all tensors that are created within have no values."""
    device = FakeCuda(assumed)
    with (
        FakeTensorMode(),
        _Watch(device),
        patch.object(FakeTensor, "tolist", lambda tensor: device.read_all(tensor)),
        patch.object(nn.Module, "_apply", _move_module),
        patch.object(FakeTensor, "__deepcopy__", _copy_tensor, create=True),
        # Autocast would switch itself off.
        patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        patch("torch.cuda.is_bf16_supported", return_value=True),
    ):
        yield device


def _copy_tensor(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """`copy.deepcopy` of a tensor: PyTorch's would read its storage."""
    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    memo[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
    copied: Tensor = memo[id(tensor)]
    return copied


def _move_module(module: nn.Module, function: Any, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` with new parameters: fake tensors cannot be swapped in place."""
    for part in module.modules() if recurse else [module]:
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(function(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else function(buffer)
    return module


@contextmanager
def fake_gradients() -> Iterator[None]:
    """Within `fake_cuda`, let `torch.autograd.grad` and `backward` return gradients of the right shape and device.

    Gradients of every tensor that the graph reaches have no values, like all tensors on the fake device. Inputs that
    the graph does not reach raise an error, as they do in PyTorch. Hooks on gradients do not run.
    """

    def grad(
        outputs: Any, inputs: Any, grad_outputs: Any = None, *args: Any, allow_unused: bool = False, **kwargs: Any
    ) -> tuple[Tensor | None, ...]:
        outputs, inputs = _as_tuple(outputs), _as_tuple(inputs)
        for output, gradient in zip(outputs, _as_tuple(grad_outputs), strict=False):
            assert gradient is None or gradient.device == output.device, "a gradient on another device than its output"
        nodes = _graph(outputs)
        reached = [_edge(tensor) in nodes for tensor in inputs]
        if not all(reached) and not allow_unused:
            raise RuntimeError("One of the differentiated Tensors appears to not have been used in the graph")
        return tuple(torch.empty_like(x) if used else None for x, used in zip(inputs, reached, strict=True))

    def backward(output: Tensor, gradient: Tensor | None = None, *args: Any, **kwargs: Any) -> None:
        assert gradient is None or gradient.device == output.device, "a gradient on another device than its output"
        for node, _ in _graph((output,)):
            if hasattr(node, "variable"):
                node.variable.grad = torch.empty_like(node.variable)

    with patch.object(torch.autograd, "grad", grad), patch.object(Tensor, "backward", backward):
        yield


def _as_tuple(tensors: Any) -> tuple[Any, ...]:
    return tuple(tensors) if isinstance(tensors, (tuple, list)) else (tensors,)


def _edge(tensor: Tensor) -> tuple[Any, int]:
    edge = torch.autograd.graph.get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _graph(outputs: tuple[Tensor, ...]) -> set[tuple[Any, int]]:
    """All edges of the graph from which outputs are computed."""
    pending, edges = [_edge(output) for output in outputs], set()
    while pending:
        edge = pending.pop()
        if edge not in edges:
            edges.add(edge)
            pending += [following for following in edge[0].next_functions if following[0] is not None]
    return edges


class _Watch(TorchDispatchMode):
    """Counts the operations that make the host wait for the GPU, and answers reads of values."""

    def __init__(self, device: FakeCuda) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is aten._local_scalar_dense.default:
            return self.device.read(args[0])
        if function is aten.nonzero.default:
            if args[0].device.type == "cuda":
                self.device.count("value read on the host")  # the size of the result
            return _indices(args[0], bool(self.device.assumed))
        if function in INDEXING and args[0].device.type == "cuda":
            for index in args[1]:
                if index is not None and index.device.type == "cpu":
                    self.device.count("blocking copy to the GPU")
        result = function(*args, **kwargs)
        if function is aten._to_copy.default and args[0].device.type != result.device.type:
            if result.device.type == "cpu":
                self.device.count("copy to the host")
            elif not kwargs.get("non_blocking"):
                self.device.count("blocking copy to the GPU")
        return result


def _indices(tensor: Tensor, every: bool) -> Tensor:
    """The result of `nonzero`: the indices of all elements, or none."""
    axes = [torch.arange(size if every else 0, device=tensor.device) for size in tensor.shape]
    grid = torch.meshgrid(*axes, indexing="ij") if axes else ()
    return torch.stack([axis.flatten() for axis in grid], 1) if axes else tensor.new_zeros(1, 0, dtype=torch.long)


def _line_of_the_package() -> str:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE.parent)}:{frame.lineno}"
    return "elsewhere"
