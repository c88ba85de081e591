"""Fields of settings dataclasses: defaults, help texts, choices, and checks of user-supplied values."""

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


def option(
    default: Any,
    help: str,
    choices: Sequence[Any] | None = None,
    path: bool = False,
    imports: bool = False,
    scheduled: tuple[float, float] | None = None,
) -> Any:
    """Declare a field of a settings dataclass.

    Args:
        default: the default value; `omegaconf.MISSING` for a required key; a dataclass, or a function
            that returns an instance of one, for a nested group.
        help: meaning of the field, shown by `--help`.
        choices: allowed values (of each element for a list); None is also allowed if it is the default.
        path: the field takes a path, or a list of paths, in which the command line expands a leading `~`.
        imports: a value `package.module:function` is imported and called; files of settings may not give it.
        scheduled: the smallest and the largest value of a number that may also be a schedule, see
            `ltx.config.schedules`; None = the field takes no schedule. Such a field has the type `Any`.
    """
    metadata = {"help": help, "choices": None if choices is None else tuple(choices), "path": path, "imports": imports}
    metadata["scheduled"] = scheduled
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_arguments(
    owner: str, function: Callable[..., Any], allowed: Iterable[str], arguments: Mapping[str, Any]
) -> None:
    """Check keyword arguments that a user passes to a function.

    Args:
        owner: name of the function in error messages.
        function: its annotations tell which arguments are numbers.
        allowed: names of the arguments that a user may set.
        arguments: the user's keyword arguments.

    Raises:
        InputError: an unknown name, or a value of another type where a number is required.
    """
    allowed = list(allowed)
    hints = typing.get_type_hints(getattr(function, "func", function))
    for name, value in arguments.items():
        if name not in allowed:
            listed = ", ".join(allowed) or "none"
            raise InputError(f"{owner} has no option {name!r}{suggest(name, allowed)}; available: {listed}")
        arms = type_arms(hints[name])
        if not arms <= {int, float, types.NoneType}:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        valid = (float in arms or isinstance(value, int)) if number else value is None and types.NoneType in arms
        if not valid:
            kind = "number" if float in arms else "integer"
            raise InputError(f"{owner}: {name}={value!r} is not a valid {kind}")


def check_ranges(group: str, settings: Any, **ranges: tuple[float, float]) -> None:
    """Check numeric fields of a settings instance.

    Args:
        group: prefix of the names on the command line, including its dot.
        settings: an instance of a settings dataclass.
        ranges: lowest and highest allowed value of each field; None is always allowed.

    Raises:
        InputError: a value is out of range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if value is None or low <= value <= high:
            continue
        allowed = f"{low:g} or more" if math.isinf(high) else f"a number from {low:g} to {high:g}"
        raise InputError(f"{group}{name}={value}; give {allowed}")


def check_choices(group: str, settings: Any) -> None:
    """Check the fields of a settings instance against their `choices`.

    The command line checks them too; Python code and checkpoints bypass it.

    Args:
        group: prefix of the names on the command line, including its dot.
        settings: an instance of a settings dataclass.

    Raises:
        InputError: a value is not one of the choices.
    """
    for field in dataclasses.fields(settings):
        choices, value = field.metadata.get("choices"), getattr(settings, field.name)
        if choices and value not in choices:
            hint = f"{suggest(str(value), choices)}; allowed: {', '.join(map(str, choices))}"
            raise InputError(f"{group}{field.name}={value!r} is unknown{hint}")


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a schema.

    Attributes:
        name: the dotted name.
        type: the annotation.
        default: the default value; `omegaconf.MISSING` for a required key.
        help: meaning, as given to `option`.
        choices: allowed values, or None.
        path: whether it takes a path or a list of paths.
        imports: whether a value `package.module:function` is imported and called.
        scheduled: whether a schedule is allowed in place of a number.
    """

    name: str
    type: Any
    default: Any
    help: str
    choices: tuple[Any, ...] | None
    path: bool = False
    imports: bool = False
    scheduled: bool = False


def keys(schema: type, prefix: str = "", group: Any = None) -> Iterator[Key]:
    """The keys of a (nested) dataclass, in field order.

    Args:
        schema: the dataclass.
        prefix: prefix of the names, including its dot.
        group: the instance whose values are the defaults; None = the defaults of the fields.
    """
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        name, kind = prefix + field.name, hints[field.name]
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        default = MISSING if default is dataclasses.MISSING else default
        default = default if group is None else getattr(group, field.name)
        if dataclasses.is_dataclass(kind):
            yield from keys(typing.cast(type, kind), name + ".", default)
            continue
        yield Key(
            name,
            kind,
            default,
            field.metadata.get("help", ""),
            field.metadata.get("choices"),
            field.metadata.get("path", False),
            field.metadata.get("imports", False),
            field.metadata.get("scheduled") is not None,
        )


def groups(schema: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and help text of each nested group."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[field.name]):
            yield prefix + field.name, field.metadata.get("help", "")
            yield from groups(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")


def type_arms(kind: Any) -> set[Any]:
    """The members of a union type, or the single type."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return set(typing.get_args(kind)) if union else {kind}


def shown(value: Any) -> str:
    """Format a value as a user types it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(entry)}' for key, entry in value.items())}}}"
    return str(value)
