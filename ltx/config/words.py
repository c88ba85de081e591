"""`key=value` words: splitting, conversion of the text to a value, and names of types in error messages."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ltx.config.options import Key, type_arms
from ltx.runtime.errors import InputError, suggest

NULL = ("null", "~", "None")
PLAIN_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


def split_word(word: str, known: Iterable[str]) -> tuple[str, str]:
    """Split `key=value` into the key and the text of its value.

    Raises:
        InputError: not of this form; the message suggests the closest of the `known` keys.
    """
    name, sign, text = word.partition("=")
    name = name.strip()
    if not sign or not name or name.startswith("-"):
        bare = name.lstrip("-").replace("-", "_")
        raise InputError(
            f"{word!r} is not a valid setting; write {nearest(bare, known) or bare or 'key'}=VALUE, or --help"
        )
    return name, text


def is_bare(word: str, known: Iterable[str]) -> bool:
    """Whether a word sets no key: it has no `=`, or it is a path that contains one."""
    name, sign, _ = word.partition("=")
    return not word.startswith("-") and (not sign or (name not in ("config", *known) and Path(word).exists()))


def nearest(name: str, known: Iterable[str]) -> str:
    """The known keys closest to `name`, separated by commas: those with the same last part, else similar spellings."""
    known = list(known)
    leaf = name.rpartition(".")[2]
    same_leaf = [key for key in known if key.rpartition(".")[2] == leaf]
    return ", ".join(same_leaf[:3]) or suggest(name, known).removeprefix("; did you mean ").removesuffix("?")


def parse_value(text: str, key: Key | None) -> Any:
    """Convert the text of a value: YAML, except that a key of type `str` or `Any` keeps text unchanged.

    Args:
        text: the part after `=`.
        key: the key that it belongs to; None if unknown.

    Raises:
        InputError: a list or dict that is not valid YAML.
    """
    is_text = key is not None and type_arms(key.type) <= {str, type(None)}
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if is_text and text not in NULL and not quoted:
        return text
    if text == "None":
        return None
    # YAML would cut a path, glob or name at a `#`, or read it as an octal number or a time.
    path_or_name = key is not None and key.type is Any and not (quoted or text in NULL or text[:1] in ("[", "{"))
    if path_or_name and not PLAIN_NUMBER.fullmatch(text):
        return text
    try:
        # OmegaConf reads scalars as its own files do (1e-4 is a number, "yes" is text).
        container = OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)
        return typing.cast(dict[str, Any], container)["value"]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        closing = {"[": "]", "{": "}"}.get(text[:1])
        if closing is not None and (closing not in text or text.endswith(closing)):  # unlike [ab]*.jpg
            name = key.name if key is not None else "value"
            raise InputError(f"{name}={text} is not valid YAML: {one_line(error)}") from error
        return text  # a glob such as *.png has another meaning in YAML


def type_name(kind: Any) -> str:
    """The name of a type or union as used in error messages."""
    arms = typing.get_args(kind) if len(type_arms(kind)) > 1 else (kind,)
    names = ["null" if arm is type(None) else arm.__name__ if isinstance(arm, type) else str(arm) for arm in arms]
    return " or ".join(str(arm) if typing.get_args(arm) else name for arm, name in zip(arms, names, strict=True))


def with_article(kind: str) -> str:
    """`a dict`, `an int`, or `null`."""
    return "null" if kind == "NoneType" else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def one_line(error: BaseException) -> str:
    """The error's message in one line of up to 200 characters."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())[:200]
