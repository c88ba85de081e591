"""What a command's dataclass says of its options, and checks of what a user gave for them."""

from __future__ import annotations

import copy
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import MISSING

from ltx.runtime.errors import InputError, suggest


def option(default: Any, help: str, choices: Sequence[Any] | None = None) -> Any:
    """A field of a command's dataclass.

    Args:
        default: the value; `omegaconf.MISSING` = the user must give it; a dataclass = a nested group.
        help: what it means, one line of `--help`.
        choices: the allowed values (of each element, for a list); None beside them is allowed where it is the default.
    """
    metadata = {"help": help, "choices": None if choices is None else tuple(choices)}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_arguments(owner: str, function: Callable[..., Any], allowed: Iterable[str], given: Mapping[str, Any]) -> None:
    """Check options that a user gave by name to a function, where their types say numbers.

    Args:
        owner: what the user calls the function.
        function: its annotations say which arguments are numbers.
        allowed: the names of those that a user may give.

    Raises:
        InputError: an unknown name, or no number where one belongs.
    """
    allowed = list(allowed)
    hints = typing.get_type_hints(getattr(function, "func", function))
    for name, value in given.items():
        if name not in allowed:
            listed = ", ".join(allowed) or "none"
            raise InputError(f"{owner} has no option {name!r}{suggest(name, allowed)}; it has: {listed}")
        arms = type_arms(hints[name])
        if not arms <= {int, float, types.NoneType}:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = (float in arms or isinstance(value, int)) if number else value is None and types.NoneType in arms
        if not fits:
            kind = "number" if float in arms else "whole number"
            raise InputError(f"{owner}: {name}={value!r} is no {kind}")


def check_ranges(group: str, settings: Any, **ranges: tuple[float, float]) -> None:
    """Check numbers of a dataclass's instance, where a user gave them.

    Args:
        group: what stands before their names on the command line, with its dot.
        ranges: the lowest and the highest allowed value, by name; None is in every range.

    Raises:
        InputError: a number out of its range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if value is None or low <= value <= high:
            continue
        mend = f"{low:g} or more" if math.isinf(high) else f"a number from {low:g} to {high:g}"
        raise InputError(f"{group}{name}={value}; give {mend}")


def check_choices(group: str, settings: Any) -> None:
    """Check what a dataclass's instance says against the `choices` of its options.

    The command line does so too; Python and the file of a checkpoint come past it.

    Args:
        group: what stands before the names, with its dot.

    Raises:
        InputError: a value that is no choice.
    """
    for field in dataclasses.fields(settings):
        choices, value = field.metadata.get("choices"), getattr(settings, field.name)
        if choices and value not in choices:
            mend = f"{suggest(str(value), choices)}; allowed: {', '.join(map(str, choices))}"
            raise InputError(f"{group}{field.name}={value!r} is unknown{mend}")


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a schema, by its dotted name."""

    name: str
    type: Any
    default: Any
    help: str
    choices: tuple[Any, ...] | None


def keys(schema: type, prefix: str = "") -> Iterator[Key]:
    """Every key of a (nested) dataclass, in the order of its fields."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        name, kind = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(kind):
            yield from keys(typing.cast(type, kind), name + ".")
            continue
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        default = MISSING if default is dataclasses.MISSING else default
        yield Key(name, kind, default, field.metadata.get("help", ""), field.metadata.get("choices"))


def groups(schema: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and meaning of every nested group."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[field.name]):
            yield prefix + field.name, field.metadata.get("help", "")
            yield from groups(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")


def type_arms(kind: Any) -> set[Any]:
    """The types of a union, or the one type."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return set(typing.get_args(kind)) if union else {kind}


def shown(value: Any) -> str:
    """A value as a user writes it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(entry)}' for key, entry in value.items())}}}"
    return str(value)
