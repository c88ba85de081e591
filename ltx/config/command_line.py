"""Command lines: the defaults of a dataclass, then `config=FILE.yaml`, then `key=value` words."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ltx.config.help_text import help_text
from ltx.config.options import Key, keys, shown, type_arms
from ltx.config.words import is_bare, nearest, one_line, parse_value, split_word, type_name, with_article
from ltx.runtime.errors import InputError, PartialFailureError, suggest
from ltx.runtime.shipped import shipped
from ltx.runtime.yaml_files import yaml_text

Schema = TypeVar("Schema")

UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),  # a file where a folder should be, or the reverse
)


IMPORT_PATH = re.compile(r"(?!torchvision:|hf:)[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

MAX_LINE = 2000
"""Characters of the line in which a command ends."""


def parse(schema: type[Schema], argv: Sequence[str], prog: str, description: str) -> Schema:
    """Create an instance of `schema` from its defaults, then each `config=FILE.yaml`, then the other words.

    Args:
        schema: a settings dataclass; words that set no key become the value of the key that its class attribute
            `POSITIONAL` names, where it has one. Its class attribute `IMPLIED` has, for a key and its value, other
            defaults of other keys: `{("explainer.name", "inr"): {"fill": "blur"}}`.
        argv: `key=value` words.
        prog: name of the program, for `--help`.
        description: first lines of `--help`.

    Raises:
        InputError: a file is missing or not valid YAML, a key is unknown or required and missing, or a value has the
            wrong type or is not allowed; the message is one line.
        SystemExit: after printing the help, for `--help` or `-h`.
    """
    if any(word in ("--help", "-h") for word in argv):
        print(help_text(schema, prog, description))
        raise SystemExit(0)
    known = {key.name: key for key in keys(schema)}
    config = OmegaConf.structured(schema)
    positional: str | None = getattr(schema, "POSITIONAL", None)
    bare = [word for word in argv if positional is not None and is_bare(word, known)]
    words = [split_word(word, known) for word in argv if word not in bare]
    if positional is not None and bare:
        OmegaConf.update(config, positional, bare, merge=False)
    overridden = {name for name, _ in words}
    given = overridden - {"config"}
    for name, text in words:
        if name == "config":
            for key, value in _read_yaml(Path(text), known):
                if key not in overridden:
                    _refuse_code(known.get(key), key, value, source=f" in {text}")
                _set(config, known, key, value, source=f" in {text}")
                given.add(key)
    for name, text in words:
        if name != "config":
            _set(config, known, name, parse_value(text, known.get(name)), source="")
    for key, default in implied_defaults(schema, config):
        if key not in given:
            OmegaConf.update(config, key, default, merge=False)
    missing = [name for name in known if OmegaConf.is_missing(*_parent(config, name))]
    if missing:
        raise InputError(f"{missing[0]} is required ({known[missing[0]].help}); write {missing[0]}=VALUE")
    try:
        return typing.cast(Schema, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:  # an interpolation ${...} of a key that does not exist
        raise InputError(f"{error.full_key or 'config'}: {one_line(error)}") from error


def implied_defaults(schema: type, config: Any) -> Iterator[tuple[str, Any]]:
    """Keys whose defaults follow from the value of another key, with these defaults."""
    for (name, value), implied in getattr(schema, "IMPLIED", {}).items():
        if OmegaConf.select(config, name) == value:
            yield from implied.items()


def run(
    main: Callable[[Schema], object],
    schema: type[Schema],
    prog: str,
    description: str,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Parse the command line, call `main`, and exit. Warnings for the user are one `warning:` line each.

    The exit code is 0 on success; 1 with one line if the disk is full or not writable; 2 with one `error:` line for
    invalid input; 3 with one line if the work is done except for sources that could not be used; 130 on interruption;
    141, quietly, if the reader of the output closed it.

    Args:
        main: called with the settings.
        schema, prog, description: see `parse`.
        argv: `key=value` words; None = the process's command line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # neither file names nor the terminal need be UTF-8
    try:
        with _plain_warnings():
            main(parse(schema, sys.argv[1:] if argv is None else argv, prog, description))
        sys.stdout.flush()
    except InputError as error:
        finish(2, f"error: {error}")
    except PartialFailureError as error:
        finish(3, f"partly failed: {error}")
    except BrokenPipeError:
        finish(141)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        finish(1, f"error: {error.filename2 or error.filename or 'output'} cannot be written: {error.strerror}")
    except KeyboardInterrupt:
        finish(130, "interrupted; run the same command again to resume")
    except SystemExit as leaving:
        finish(leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1)
    finish(0)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print a `UserWarning` without the place in the code, which tells nothing to who runs a command."""
    original = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        if issubclass(category, UserWarning):
            return f"warning: {' '.join(str(message).split())}\n"
        return original(message, category, *place, **line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = original


def finish(status: int, line: str = "") -> NoReturn:
    """Exit after printing a line to stderr; quietly, with status 141, if the reader of an output closed it."""
    try:
        sys.stdout.flush()
        if line:
            text = " ".join(line.splitlines())
            print(text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]} …", file=sys.stderr)
        sys.stderr.flush()
    except BrokenPipeError:
        status = status or 141
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            # The interpreter flushes again when it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), typing.cast(typing.TextIO, stream).fileno())
            status = status or 141
        except (ValueError, OSError):  # closed, or not a file
            continue
    sys.exit(status)


def to_yaml(instance: Any) -> str:
    """The YAML text of a settings instance, with interpolations resolved; `config=FILE` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(instance), resolve=True)


def _read_yaml(file: Path, known: dict[str, Key]) -> Iterator[tuple[str, Any]]:
    file = file.expanduser()
    if not file.is_file():
        file = shipped(file) or file
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() else shipped(file.parent) or file.parent
        near = suggest(file.stem, (entry.stem for entry in sorted(folder.glob("*.yaml"))))
        raise InputError(f"config={file} does not exist; give a YAML file{near}")
    try:
        content = OmegaConf.to_container(OmegaConf.create(yaml_text(file) or "{}"), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise InputError(f"config={file} is not valid YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"config={file} contains a {type(content).__name__}; write key: value lines")
    yield from _leaves(content, known, "")


def _leaves(content: dict[Any, Any], known: dict[str, Key], prefix: str) -> Iterator[tuple[str, Any]]:
    for part, value in content.items():
        name = f"{prefix}{part}"
        if isinstance(value, dict) and name not in known:
            yield from _leaves(value, known, name + ".")
        elif value is not None or name in known or not _is_group(name, known):
            yield name, value  # YAML reads a group whose lines are all commented out as None: nothing to set


def _set(config: Any, known: dict[str, Key], name: str, value: Any, source: str) -> None:
    key = known.get(name) or _owner(name, known)
    if key is None:
        if _is_group(name, known):
            members = [k for k in known if k.startswith(name + ".")]
            raise InputError(f"{name}={shown(value)}{source}: {name} is a group of keys; write {members[0]}=VALUE")
        matches = nearest(name, known)
        hint = f"; did you mean {matches}?" if matches else "; --help lists all keys"
        raise InputError(f"unknown key {name}{source}{hint}")
    if key.path:
        value = _expanded(value)
    try:
        OmegaConf.update(config, name, value, merge=False)  # a complete dict replaces the previous one
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        kind = type(value).__name__
        takes_list = any(typing.get_origin(arm) is list for arm in type_arms(key.type))
        as_list = f", as {name}=[{shown(value)}]" if takes_list and not isinstance(value, (list, dict)) else ""
        raise InputError(
            f"{name}={shown(value)}{source} is {with_article(kind)}; expected {type_name(key.type)}{as_list}"
        ) from error
    if value == "" and key.default != "":
        raise InputError(f"{name}={source} is empty; give a value, or leave it out")
    if key.choices is None:
        return
    for element in value if isinstance(value, list) else [value]:
        if element not in key.choices and not (element is None and key.default is None):
            allowed = ", ".join(map(str, key.choices))
            raise InputError(f"{name}={shown(element)}{source} is not allowed; allowed: {allowed}")


def _refuse_code(key: Key | None, name: str, value: Any, source: str) -> None:
    """Refuse values in files that would run code: the file may be a stranger's.

    webdataset runs what follows `pipe:` as a shell command, and `package.module:function` is imported and called.
    """
    for element in value if isinstance(value, list) else [value]:
        if isinstance(element, str) and element.startswith("pipe:"):
            raise InputError(f"{name}={element}{source} would run a shell command; give it on the command line")
        if key is not None and key.imports and isinstance(element, str) and IMPORT_PATH.fullmatch(element):
            raise InputError(f"{name}={element}{source} would import and call it; give it on the command line")


def _expanded(value: Any) -> Any:
    """Replace a leading `~` in a path, in each of several paths, and after a prefix such as `ltx:`, by the home."""
    if isinstance(value, list):
        return [_expanded(element) for element in value]
    if isinstance(value, dict):
        return {name: _expanded(element) for name, element in value.items()}
    if not isinstance(value, str):
        return value
    prefix, path = re.fullmatch(r"([a-z0-9_]+:(?=~))?(.*)", value, re.DOTALL).groups()  # type: ignore[union-attr]
    return (prefix or "") + os.path.expanduser(path)


def _owner(name: str, known: dict[str, Key]) -> Key | None:
    """The key of type dict (or Any) that contains an entry such as `objective.weights.area`."""
    while "." in name:
        name = name.rpartition(".")[0]
        key = known.get(name)
        if key is not None and any(arm in (dict, Any) or typing.get_origin(arm) is dict for arm in type_arms(key.type)):
            return key
    return None


def _is_group(name: str, known: dict[str, Key]) -> bool:
    return any(key.startswith(name + ".") for key in known)


def _parent(config: Any, name: str) -> tuple[Any, str]:
    group, _, leaf = name.rpartition(".")
    return (OmegaConf.select(config, group) if group else config), leaf
