"""Checks of the tensors that public functions are given."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ltx.runtime.errors import InputError
from ltx.runtime.lazy import torch

Function = TypeVar("Function", bound=Callable[..., Any])

KINDS = ("float", "int", "bool", "real")


@dataclass(frozen=True)
class Expected:
    """Type and shape of a tensor, as in `float [B, 1, H, W]`.

    Attributes:
        kind: `float`, `int` and `bool` are families of types, `real` is any of them, others are one type of torch.
        sizes: a number; a letter, which stands for one size in all tensors of a call; or `.name`, an attribute of the
            method's object. `...` in front stands for any sizes.
    """

    kind: str
    sizes: tuple[str, ...]

    @classmethod
    def parsed(cls, text: str) -> Expected:
        kind, sizes = cast("re.Match[str]", re.fullmatch(r"(\w+) \[(.*)\]", text)).groups()
        return cls(kind, tuple(sizes.split(", ")))

    def accepts_type(self, value: Any) -> bool:
        if self.kind == "float":
            return bool(value.is_floating_point())
        if self.kind == "bool":
            return bool(value.dtype == torch.bool)
        if self.kind == "real":
            return not value.is_complex()
        if self.kind == "int":
            return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
        return bool(value.dtype == getattr(torch, self.kind))

    def accepts_shape(self, shape: tuple[int, ...], known: dict[str, int], owner: object) -> bool:
        """Whether the shape fits; letters get their sizes in `known`.

        Only the first size may be 0, and others with its letter.
        """
        sizes = self.sizes
        if sizes[0] == "...":
            sizes = sizes[1:]
            shape = shape[len(shape) - len(sizes) :] if len(shape) >= len(sizes) else ()
        if len(shape) != len(sizes):
            return False
        for place, (size, name) in enumerate(zip(shape, sizes, strict=True)):
            if size == 0 and place > 0 and name not in known:
                return False
            if known.setdefault(name, _fixed(name, owner, size)) != size:
                return False
        return True

    def describe(self, known: Mapping[str, int]) -> str:
        return f"{self.kind} [{', '.join(str(known.get(name, name)) for name in self.sizes)}]"


def _fixed(name: str, owner: object, otherwise: int) -> int:
    if name.startswith("."):
        return int(operator.attrgetter(name[1:])(owner))
    return int(name) if name.isdigit() else otherwise


def check_tensors(expected: Mapping[str, Expected], values: Mapping[str, Any], owner: object = None) -> None:
    """Check tensors against the shapes that a function takes; None is accepted.

    Args:
        expected: type and shape by name.
        values: the tensors by name; of a named tuple, such as a `Prediction`, every field is checked.
        owner: the object whose attributes the shapes name.

    Raises:
        InputError: a value is not a tensor of that type and shape; names the argument, what it is, and what to give.
    """
    known: dict[str, int] = {}
    first: dict[str, str] = {}
    for name, wanted in expected.items():
        value = values.get(name)
        if value is None:
            continue
        fields = value._asdict() if isinstance(value, tuple) and hasattr(value, "_asdict") else {"": value}
        for field, part in fields.items():
            _check(f"{name}.{field}" if field else name, part, wanted, known, first, owner)


def _check(
    name: str, value: Any, wanted: Expected, known: dict[str, int], first: dict[str, str], owner: object
) -> None:
    """Check one tensor; `known` has the size of each letter, and `first` the tensor that it was read from."""
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{name} is of type {type(value).__name__}; give a tensor {wanted.describe(known)}")
    before = dict(known)
    if not wanted.accepts_shape(tuple(value.shape), known, owner) or not wanted.accepts_type(value):
        fixed = {size: _fixed(size, owner, 0) for size in wanted.sizes if size[:1] == "." and size != "..."}
        others = list(dict.fromkeys(first[size] for size in wanted.sizes if size in first))
        kind = str(value.dtype).removeprefix("torch.")
        reason = f", to fit {' and '.join(others)}" if others else ""
        raise InputError(f"{name} is {kind} {list(value.shape)}; give {wanted.describe(before | fixed)}{reason}")
    first.update({size: name for size in wanted.sizes if size.isalpha() and size not in first})


def takes(**shapes: str) -> Callable[[Function], Function]:
    """Decorator that checks the tensors that a function is given; see `check_tensors`.

    Args:
        shapes: type and shape by parameter, see `Expected`.

    Example:
        >>> @takes(maps="float [B, 1, H, W]", targets="int64 [B]")
        ... def energy(maps, targets): ...
    """
    expected = {name: Expected.parsed(text) for name, text in shapes.items()}

    def decorated(function: Function) -> Function:
        code = cast(Any, function).__code__
        parameters = code.co_varnames[: code.co_argcount]
        is_method = parameters[:1] == ("self",)

        @functools.wraps(function)
        def checked(*arguments: Any, **named: Any) -> Any:
            values = dict(zip(parameters, arguments, strict=False)) | named
            check_tensors(expected, values, arguments[0] if is_method and arguments else None)
            return function(*arguments, **named)

        return cast(Function, checked)

    return decorated
