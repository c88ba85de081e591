"""The text that `--help` prints."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from omegaconf import MISSING

from ltx.config.options import groups, keys, shown

STATUSES = {
    0: "done",
    1: "an output cannot be written, or an internal error",
    2: "invalid input; nothing was done",
    3: "done, except for some sources that could not be used; the last line names them",
    130: "interrupted; the same command resumes",
    141: "the reader of the output closed it",
}
"""Meanings of the exit status of every command."""

SCHEDULES = (
    "  A schedule is [[progress, value], …], with the progress of the training from 0 to 1: linear between the points,",
    "  constant before the first and after the last.",
)
"""Lines before the keys of a schema that has keys which may be schedules."""


def help_text(schema: type, prog: str, description: str) -> str:
    """Usage, two examples, and each key with its default, allowed values and meaning.

    The first example shows the first key with a default, or the class attribute `EXAMPLE` of the schema. The
    class attribute `USAGE` follows the program in the first line.
    """
    rows = list(_rows(schema))
    left, middle = max(len(row[0]) for row in rows), min(max(len(row[1]) for row in rows), 28)
    indent = left + middle + 6
    width = max(shutil.get_terminal_size((120, 24)).columns, indent + 40)
    lines = []
    for name, default, meaning in rows:
        first = f"  {name:<{left}}  {default:<{middle}}  "
        gap = "" if len(first) == indent else "\n" + " " * indent  # the meaning starts below a long default
        lines.append(first + gap + ("\n" + " " * indent).join(textwrap.wrap(meaning, width - indent) or [""]))
    defaults = [key for key in keys(schema) if key.default not in (None, MISSING, [], {}, "")] or list(keys(schema))
    examples = [f"{key.name}={shown(key.default)}" for key in (defaults[0], defaults[-1])]
    examples[0] = getattr(schema, "EXAMPLE", examples[0])
    required = "".join(f" {key.name}={key.name.upper()}" for key in keys(schema) if key.default == MISSING)
    return "\n".join(
        [
            f"usage: {prog}{getattr(schema, 'USAGE', '')} [config=FILE.yaml] [key=value ...]",
            "",
            *textwrap.wrap(description, width),
            "",
            "examples:",
            f"  {prog}{required} {examples[0]}",
            f"  {prog} config=FILE.yaml{required} {examples[1]}",
            "",
            "keys, defaults and meanings:",
            *(SCHEDULES if any(key.scheduled for key in keys(schema)) else ()),
            *lines,
            *_implied(schema, width),
            "",
            "exit status:",
            *(f"  {status:<5}{meaning}" for status, meaning in STATUSES.items()),
        ]
    )


def _implied(schema: type, width: int) -> Iterator[str]:
    """What other defaults follow from the values of some keys."""
    for (name, value), implied in getattr(schema, "IMPLIED", {}).items():
        yield ""
        yield f"defaults with {name}={value}:"
        yield from textwrap.wrap(
            ", ".join(f"{key}={shown(default)}" for key, default in implied.items()),
            width,
            initial_indent="  ",
            subsequent_indent="  ",
        )


def _rows(schema: type) -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of each key; a group's own row precedes its first key."""
    yield "config", "null", "YAML file with any of the keys below; key=value words override it"
    meanings = dict(groups(schema))
    for key in keys(schema):
        group = key.name.rpartition(".")[0]
        while group and group not in meanings:  # its row was printed already
            group = group.rpartition(".")[0]
        if group:
            yield f"{group}.…", "", meanings.pop(group)
        allowed = "" if key.choices is None else f" [{' | '.join(map(str, key.choices))}]"
        allowed += " (or a schedule)" if key.scheduled else ""
        yield key.name, "(required)" if key.default == MISSING else shown(key.default), key.help + allowed
