"""Command lines: a dataclass of defaults, then `config=FILE.yaml`, then `key=value` words."""

from __future__ import annotations

import errno
import io
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ltx.config.options import Key, groups, keys, shown, type_arms
from ltx.runtime.errors import InputError, suggest
from ltx.runtime.shipped import shipped

Schema = TypeVar("Schema")

NULL = ("null", "~", "None")
PLAIN_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")

UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),  # a file where a folder should be, or the other way round
)


def parse(schema: type[Schema], argv: Sequence[str], prog: str, description: str) -> Schema:
    """An instance of `schema`: its defaults, then each `config=FILE.yaml`, then the other `key=value` words.

    Raises:
        InputError: a file that is missing or no YAML, an unknown key, a wrong type, a value that is not allowed or
            a required key without one; one line that names it.
        SystemExit: after printing the help, for `--help` or `-h`.
    """
    if any(word in ("--help", "-h") for word in argv):
        print(help_text(schema, prog, description))
        raise SystemExit(0)
    known = {key.name: key for key in keys(schema)}
    config = OmegaConf.structured(schema)
    words = [_split(word, known) for word in argv]
    for name, text in words:
        if name == "config":
            for key, value in _read_yaml(Path(text), known):
                _set(config, known, key, value, source=f" in {text}")
    for name, text in words:
        if name != "config":
            _set(config, known, name, _value(text, known.get(name)), source="")
    missing = [name for name in known if OmegaConf.is_missing(*_parent(config, name))]
    if missing:
        raise InputError(f"{missing[0]} is required ({known[missing[0]].help}); write {missing[0]}=VALUE")
    try:
        return typing.cast(Schema, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:  # an interpolation ${...} that leads nowhere
        raise InputError(f"{error.full_key or 'config'}: {_one_line(error)}") from error


def run(
    main: Callable[[Schema], object],
    schema: type[Schema],
    prog: str,
    description: str,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Parse `argv` (None = the command line), call `main`, and exit: 0, or 2 with one `error:` line for bad input,
    1 with one line where a disk is full or not writable, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8, nor the terminal
    try:
        main(parse(schema, sys.argv[1:] if argv is None else argv, prog, description))
    except InputError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        print(f"error: {error.filename or 'output'} cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is finished", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def to_yaml(instance: Any) -> str:
    """The YAML text of a dataclass instance, interpolations resolved; `config=FILE` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(instance), resolve=True)


def help_text(schema: type, prog: str, description: str) -> str:
    """Usage, two examples, and every key with its default, its allowed values and its meaning; groups say theirs first.

    Where what has a default is no example, the schema has one as `EXAMPLE`.
    """
    rows = [("config", "null", "YAML file of any of the keys below; words after it override it")]
    meanings = dict(groups(schema))
    for key in keys(schema):
        group = key.name.rpartition(".")[0]
        while group and group not in meanings:  # told already
            group = group.rpartition(".")[0]
        if group:
            rows.append((f"{group}.…", "", meanings.pop(group)))
        allowed = "" if key.choices is None else f" [{' | '.join(map(str, key.choices))}]"
        rows.append((key.name, "(required)" if key.default == MISSING else shown(key.default), key.help + allowed))
    left, middle = max(len(row[0]) for row in rows), min(max(len(row[1]) for row in rows), 28)
    indent = left + middle + 6
    width = max(shutil.get_terminal_size((120, 24)).columns, indent + 40)
    lines = []
    for name, default, meaning in rows:
        first = f"  {name:<{left}}  {default:<{middle}}  "
        gap = "" if len(first) == indent else "\n" + " " * indent  # a long default: its meaning on the next line
        lines.append(first + gap + ("\n" + " " * indent).join(textwrap.wrap(meaning, width - indent) or [""]))
    given = [key for key in keys(schema) if key.default not in (None, MISSING, [], {}, "")] or list(keys(schema))
    examples = [f"{key.name}={shown(key.default)}" for key in (given[0], given[-1])]
    examples[0] = getattr(schema, "EXAMPLE", examples[0])
    required = "".join(f" {key.name}={key.name.upper()}" for key in keys(schema) if key.default == MISSING)
    return "\n".join(
        [
            f"usage: {prog} [config=FILE.yaml] [key=value ...]",
            "",
            *textwrap.wrap(description, width),
            "",
            "examples:",
            f"  {prog}{required} {examples[0]}",
            f"  {prog} config=FILE.yaml{required} {examples[1]}",
            "",
            "keys, defaults and meanings:",
            *lines,
        ]
    )


# -- one key, one value --------------------------------------------------------------------------------------------


def _split(word: str, known: dict[str, Key]) -> tuple[str, str]:
    name, sign, text = word.partition("=")
    name = name.strip()
    if not sign or not name or name.startswith("-"):
        bare = name.lstrip("-").replace("-", "_")
        raise InputError(f"{word!r} is no setting; write {_nearest(bare, known) or bare or 'key'}=VALUE, or --help")
    return name, text


def _value(text: str, key: Key | None) -> Any:
    """The value of a word: YAML, except that text stays as it is typed where a key takes text or anything."""
    takes_text = key is not None and type_arms(key.type) <= {str, type(None)}
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if takes_text and text not in NULL and not quoted:
        return text
    if text == "None":
        return None
    # A path, a glob or a name, which YAML might cut at a `#` or read as an octal number or a time.
    path_or_name = key is not None and key.type is Any and not (quoted or text in NULL or text[:1] in ("[", "{"))
    if path_or_name and not PLAIN_NUMBER.fullmatch(text):
        return text
    try:
        # OmegaConf's own reading of scalars (1e-4 is a number, "yes" is text), through its public door.
        return OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)["value"]  # type: ignore[index,call-overload]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        closing = {"[": "]", "{": "}"}.get(text[:1])
        if closing is not None and (closing not in text or text.endswith(closing)):  # not as in [ab]*.jpg
            where = key.name if key is not None else "value"
            raise InputError(f"{where}={text} is no YAML: {_one_line(error)}") from error
        return text  # a glob such as *.png means something else in YAML


def _read_yaml(file: Path, known: dict[str, Key]) -> Iterator[tuple[str, Any]]:
    if not file.is_file():
        file = shipped(file) or file
    if not file.is_file():
        raise InputError(f"config={file} does not exist; give a YAML file")
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"config={file} is no YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"config={file} holds a {type(content).__name__}; write key: value lines")
    yield from _leaves(content, known, "")


def _leaves(content: dict[Any, Any], known: dict[str, Key], prefix: str) -> Iterator[tuple[str, Any]]:
    for part, value in content.items():
        name = f"{prefix}{part}"
        if isinstance(value, dict) and name not in known:
            yield from _leaves(value, known, name + ".")
        elif value is not None or name in known or not _is_group(name, known):
            yield name, value  # a group whose lines are all commented out is None in YAML: nothing to set


def _set(config: Any, known: dict[str, Key], name: str, value: Any, source: str) -> None:
    key = known.get(name) or _owner(name, known)
    if key is None:
        if _is_group(name, known):
            members = [k for k in known if k.startswith(name + ".")]
            raise InputError(f"{name}={shown(value)}{source}: {name} is a group of keys; write {members[0]}=VALUE")
        near = _nearest(name, known)
        hint = f"; did you mean {near}?" if near else "; --help lists all"
        raise InputError(f"unknown key {name}{source}{hint}")
    try:
        OmegaConf.update(config, name, value, merge=False)  # a dict given whole takes the place of the former one
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        kind = type(value).__name__
        lists = any(typing.get_origin(arm) is list for arm in type_arms(key.type)) and not isinstance(
            value, (list, dict)
        )
        mend = f", as {name}=[{shown(value)}]" if lists else ""
        raise InputError(
            f"{name}={shown(value)}{source} is {_article(kind)}; expected {_type_name(key.type)}{mend}"
        ) from error
    if value == "" and key.default != "":
        raise InputError(f"{name}={source} is empty; give a value, or leave it out")
    if key.choices is None:
        return
    for element in value if isinstance(value, list) else [value]:
        if element not in key.choices and not (element is None and key.default is None):
            allowed = ", ".join(map(str, key.choices))
            raise InputError(f"{name}={shown(element)}{source} is not allowed; allowed: {allowed}")


def _owner(name: str, known: dict[str, Key]) -> Key | None:
    """The key of type dict (or Any) that holds an entry such as `objective.weights.area`."""
    while "." in name:
        name = name.rpartition(".")[0]
        key = known.get(name)
        if key is not None and any(arm in (dict, Any) or typing.get_origin(arm) is dict for arm in type_arms(key.type)):
            return key
    return None


def _is_group(name: str, known: dict[str, Key]) -> bool:
    return any(key.startswith(name + ".") for key in known)


def _nearest(name: str, known: dict[str, Key]) -> str:
    leaf = name.rpartition(".")[2]
    same_leaf = [key for key in known if key.rpartition(".")[2] == leaf]
    return ", ".join(same_leaf[:3]) or suggest(name, known).removeprefix("; did you mean ").removesuffix("?")


def _parent(config: Any, name: str) -> tuple[Any, str]:
    group, _, leaf = name.rpartition(".")
    return (OmegaConf.select(config, group) if group else config), leaf


# -- how things are written ----------------------------------------------------------------------------------------


def _type_name(kind: Any) -> str:
    arms = typing.get_args(kind) if len(type_arms(kind)) > 1 else (kind,)
    names = ["null" if arm is type(None) else arm.__name__ if isinstance(arm, type) else str(arm) for arm in arms]
    return " or ".join(str(arm) if typing.get_args(arm) else name for arm, name in zip(arms, names, strict=True))


def _article(kind: str) -> str:
    return "null" if kind == "NoneType" else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _one_line(error: BaseException) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())[:200]
